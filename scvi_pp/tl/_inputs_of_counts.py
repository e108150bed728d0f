"""What models of counts read of an AnnData, learned from its cells: genes or fragments, batch and covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi_pp._data.counts import Counts
from scvi_pp._data.read import learn
from scvi_pp._data.sources import Categories, Category, Labels, Numbers, Positive
from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from scipy.sparse import csr_matrix

NO_LABELS = Category(())  # all cells are of one kind


def inputs_of_counts(
    adata: AnnData, keys: Mapping[str, Any], *, verb: str, labels: Category | Labels = NO_LABELS, integers: bool = True
) -> Any:
    """The sources that `keys` name; `labels` where a dispersion or a classifier has use for them."""
    from scvi_pp._backend.models.scvi import Inputs

    return learn(
        adata,
        Inputs(
            counts=Counts(keys["layer"], keys["mask_var"], integers=integers),
            batch=Category(keys["batch_key"]),
            labels=labels,
            categories=Categories(keys["categorical_covariate_keys"]),
            numbers=Numbers(keys["continuous_covariate_keys"]),
            size_factor=Positive(keys["size_factor_key"]),
        ),
        verb=verb,
    )


def numbers_of_levels(sources: Any) -> dict[str, Any]:
    """How many batches there are, and levels of each category, whatever the model."""
    return {"n_batches": len(sources.batch.levels), "n_levels": tuple(map(len, sources.categories.levels))}


def sizes_of(sources: Any) -> dict[str, Any]:
    """The hyperparameters that follow from the sources of a model of one matrix."""
    return {
        **numbers_of_levels(sources),
        "n_numbers": len(sources.numbers.keys),
        "has_size_factor": sources.size_factor.key is not None,
    }


def refuse_negative_values(counts: csr_matrix, place: str) -> None:
    """Counts were checked when they were read; this is for likelihoods of values that were normalised."""
    if counts.nnz and counts.data.min() < 0:
        msg = f"{place} holds negative values (smallest {counts.data.min():g}): it looks scaled."
        raise InputError(f"{msg} gene_likelihood='normal' takes log-normalised expression, before sc.pp.scale.")
