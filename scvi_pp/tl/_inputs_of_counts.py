"""What models of counts read of an AnnData, learned from its cells: genes or fragments, batch and covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi_pp._data.counts import Counts
from scvi_pp._data.read import learn
from scvi_pp._data.sources import Categories, Category, Numbers, Positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


def inputs_of_counts(
    adata: AnnData, keys: Mapping[str, Any], *, verb: str, labels: tuple[str, ...] = (), integers: bool = True
) -> Any:
    """The sources that `keys` name; `labels` where a dispersion has use for them."""
    from scvi_pp._backend.models.scvi import Inputs

    return learn(
        adata,
        Inputs(
            counts=Counts(keys["layer"], keys["mask_var"], integers=integers),
            batch=Category(keys["batch_key"]),
            labels=Category(labels),
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
