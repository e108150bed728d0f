"""scVI: the call, what it reads and what it writes. What is assumed is in `_backend/models/scvi.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

from scvi_pp import _docs
from scvi_pp._data.columns import as_keys
from scvi_pp._data.sources import Category
from scvi_pp._seed import seed_from
from scvi_pp.tl._fitting import Call, fit_and_write
from scvi_pp.tl._inputs_of_counts import inputs_of_counts, refuse_negative_values, sizes_of
from scvi_pp.tl._options import (
    BatchRepresentation,
    LatentDistribution,
    Where,
    check_choices,
    check_flags,
    check_labels_key,
    check_names,
    check_rate,
    check_sizes,
)
from scvi_pp.tl._training import documented_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from scvi_pp._seed import Seed
    from scvi_pp.tl._training import Training

Dispersion = Literal["gene", "gene-batch", "gene-label", "gene-cell"]
GeneLikelihood = Literal["zinb", "nb", "poisson", "normal"]
CHOICES = {
    "dispersion": Dispersion,
    "gene_likelihood": GeneLikelihood,
    "latent_distribution": LatentDistribution,
    "batch_representation": BatchRepresentation,
    "use_batch_norm": Where,
    "use_layer_norm": Where,
}
SIZES = ("n_latent", "n_hidden", "n_layers", "n_batch_embedding")


@_docs.documented(RANDOM=_docs.RANDOM, TRAINING=documented_for("scvi"))
def scvi(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | Sequence[str] | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: str | Sequence[str] | None = None,
    continuous_covariate_keys: str | Sequence[str] | None = None,
    mask_var: str | None = None,
    n_latent: int = 10,
    n_hidden: int = 128,
    n_layers: int = 1,
    dropout_rate: float = 0.1,
    dispersion: Dispersion = "gene",
    gene_likelihood: GeneLikelihood = "zinb",
    latent_distribution: LatentDistribution = "normal",
    use_observed_lib_size: bool = True,
    encode_covariates: bool = False,
    deeply_inject_covariates: bool = True,
    batch_representation: BatchRepresentation = "one-hot",
    n_batch_embedding: int = 5,
    use_batch_norm: Where = "both",
    use_layer_norm: Where = "none",
    denoise: bool | None = None,
    key_added: str | None = None,
    save_model: bool | str | Path = True,
    rng: Seed = None,
    random_state: Seed = None,
    device: str | None = None,
    copy: bool = False,
    **training: Unpack[Training],
) -> AnnData | None:
    """Embed single-cell RNA counts in a latent space freed from batch and depth [Lopez18]_.

    A variational autoencoder of the raw counts. Its latent space goes into `sc.pp.neighbors` in place of PCA, its
    denoised expression into plots, and the fitted model, which is stored in the object, answers further questions
    (`tl.denoise`, `get.*`). Use it to integrate batches, to cluster, and wherever counts are sparse.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts; dense or sparse, whole or a view.
    layer
        Where the counts are; `.X` by default.
    batch_key
        Column(s) of `.obs` that name the batch, whose effect is to be removed: donor, run, chemistry. Several columns
        count as one, with a batch for every combination.
    labels_key
        Column of `.obs` for `dispersion="gene-label"`. Labels do not inform the latent space.
    size_factor_key
        Column of `.obs` with a positive size factor for each cell, instead of its total count. Expression is then in
        units of it and no longer sums to one.
    categorical_covariate_keys
        Further columns of `.obs` whose effects are to be removed, each on its own: sex, sort gate.
    continuous_covariate_keys
        Numeric columns of `.obs` whose effects are to be removed: percentage of mitochondrial counts. They are
        standardised for you.
    mask_var
        Boolean column of `.var` that chooses the genes to model, as `"highly_variable"`.
    n_latent
        Dimensions of the latent space.
    n_hidden
        Units of each hidden layer.
    n_layers
        Hidden layers of the encoder and of the decoder.
    dropout_rate
        Dropout in the encoder.
    dispersion
        Whether overdispersion is constant per gene, or differs between batches, labels or cells.
    gene_likelihood
        How counts scatter: zero-inflated negative binomial, negative binomial, Poisson, or normal for values that
        were normalised already (log-normalised, not scaled).
    latent_distribution
        `"normal"`, or `"ln"` for a latent space on the simplex (each cell a mixture of `n_latent` archetypes).
    use_observed_lib_size
        Take the total count as the library size; `False` infers it, with a prior from the cells of the same batch.
    encode_covariates
        Show batch and covariates to the encoder too.
    deeply_inject_covariates
        Show categories to every hidden layer rather than the first alone.
    batch_representation
        `"one-hot"`, or `"embedding"` for a learned vector per batch (many batches).
    n_batch_embedding
        Length of that vector.
    use_batch_norm, use_layer_norm
        Where each normalisation is applied.
    denoise
        Write the denoised layer; by default only if it takes at most `settings.max_layer_bytes`.
    key_added
        Name of the results in `.obsm` and `.uns` instead of `'X_scvi'` and `'scvi'`, as in `sc.tl.umap`.
    save_model
        Keep the fitted model in `.uns`; a path keeps it in a file of its own; `False` not at all.
    {RANDOM}
    device
        `"cpu"`, `"cuda"`, ...; `settings.device` by default, which takes a GPU if there is one.
    copy
        Return a copy instead of writing to the object.
    {TRAINING}

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obsm['X_scvi' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Posterior mean of each cell's latent position.
    `.layers['scvi_denoised' | f'{key_added}_denoised']` : :class:`numpy.ndarray` (dtype `float32`, `(n_obs, n_vars)`)
        Denoised share of each gene (rows sum to 1); NaN for genes outside `mask_var`.
    `.uns['scvi' | key_added]` : :class:`dict`
        `'params'`: the settings; `'history'`: curves by epoch; `'model'`: the fitted model itself.

    Raises
    ------
    InputError
        The values are no raw counts, a column has missing values, an option is impossible.
    MissingKeyError
        A layer or column is not there.
    TrainingError
        The loss was never finite. In each case the object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()
    >>> svp.tl.scvi(adata, max_epochs=2)
    >>> adata.obsm["X_scvi"].shape
    (700, 10)
    """
    options = {
        "n_latent": n_latent,
        "n_hidden": n_hidden,
        "n_layers": n_layers,
        "dropout_rate": dropout_rate,
        "dispersion": dispersion,
        "gene_likelihood": gene_likelihood,
        "latent_distribution": latent_distribution,
        "use_observed_lib_size": use_observed_lib_size,
        "encode_covariates": encode_covariates,
        "deeply_inject_covariates": deeply_inject_covariates,
        "batch_representation": batch_representation,
        "n_batch_embedding": n_batch_embedding,
        "use_batch_norm": use_batch_norm,
        "use_layer_norm": use_layer_norm,
    }
    options = _checked(options, labels_key)
    keys = {
        "layer": layer,
        "batch_key": as_keys(batch_key, "batch_key"),
        "labels_key": labels_key,
        "size_factor_key": size_factor_key,
        "categorical_covariate_keys": as_keys(categorical_covariate_keys, "categorical_covariate_keys"),
        "continuous_covariate_keys": as_keys(continuous_covariate_keys, "continuous_covariate_keys"),
        "mask_var": mask_var,
    }
    check_names(keys, "labels_key", "size_factor_key")
    seed = seed_from(rng, random_state)
    call = Call(adata, "scvi", seed, key_added, denoise, save_model, device, training)
    if copy:
        call = replace(call, adata=adata.copy())
    sources, hyperparameters = _declare(call.adata, options, keys)
    fit_and_write(call, sources, hyperparameters, {**keys, **options}, look=refuse_negative_values)
    return call.adata if copy else None


def _checked(options: dict[str, Any], labels_key: str | None) -> dict[str, Any]:
    """The options in plain Python types, after every check that needs no data."""
    check_choices(options, CHOICES)
    check_sizes(options, *SIZES)
    check_flags(options, "use_observed_lib_size", "encode_covariates", "deeply_inject_covariates")
    check_rate(options, "dropout_rate")
    check_labels_key(options["dispersion"], labels_key)
    return {**options, **{name: int(options[name]) for name in SIZES}, "dropout_rate": float(options["dropout_rate"])}


def _declare(adata: AnnData, options: dict[str, Any], keys: dict[str, Any]) -> tuple[Any, Any]:
    """What the model reads, learned from these cells, and the network that follows from it."""
    from scvi_pp._backend.models.scvi import Hyperparameters

    labels_key, integers = keys["labels_key"], options["gene_likelihood"] != "normal"
    labels = (labels_key,) if labels_key is not None and options["dispersion"] == "gene-label" else ()
    sources = inputs_of_counts(adata, keys, verb="tl.scvi", labels=Category(labels), integers=integers)
    n_genes, n_labels = len(sources.counts.var_names), len(sources.labels.levels)
    return sources, Hyperparameters(n_genes=n_genes, n_labels=n_labels, **sizes_of(sources), **options)
