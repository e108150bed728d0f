"""PoissonVI: the call, what it reads and what it writes. What is assumed is in `_backend/models/poissonvi.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from scvi_pp import _docs
from scvi_pp._data.columns import as_keys
from scvi_pp._seed import seed_from
from scvi_pp.tl import _chromatin
from scvi_pp.tl._fitting import Call, fit_and_write
from scvi_pp.tl._inputs_of_counts import inputs_of_counts, sizes_of
from scvi_pp.tl._options import (
    BatchRepresentation,
    LatentDistribution,
    Where,
    check_choices,
    check_flags,
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

CHOICES = {
    "latent_distribution": LatentDistribution,
    "batch_representation": BatchRepresentation,
    "use_batch_norm": Where,
    "use_layer_norm": Where,
}
SIZES = ("n_layers", "n_batch_embedding")
FLAGS = ("use_observed_lib_size", "encode_covariates", "deeply_inject_covariates")


@_docs.documented(
    COLUMNS=_chromatin.COLUMNS,
    COVARIATES=_chromatin.COVARIATES,
    WIDTHS=_chromatin.WIDTHS,
    RESULTS=_chromatin.RESULTS,
    RAISES=_chromatin.RAISES,
    RANDOM=_docs.RANDOM,
    TRAINING=documented_for("poissonvi"),
)
def poissonvi(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | Sequence[str] | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: str | Sequence[str] | None = None,
    continuous_covariate_keys: str | Sequence[str] | None = None,
    mask_var: str | None = None,
    n_latent: int | None = None,
    n_hidden: int | None = None,
    n_layers: int = 2,
    dropout_rate: float = 0.1,
    latent_distribution: LatentDistribution = "normal",
    use_observed_lib_size: bool = True,
    encode_covariates: bool = False,
    deeply_inject_covariates: bool = True,
    batch_representation: BatchRepresentation = "one-hot",
    n_batch_embedding: int = 5,
    use_batch_norm: Where = "none",
    use_layer_norm: Where = "both",
    denoise: bool | None = None,
    key_added: str | None = None,
    save_model: bool | str | Path = True,
    rng: Seed = None,
    random_state: Seed = None,
    device: str | None = None,
    copy: bool = False,
    **training: Unpack[Training],
) -> AnnData | None:
    """Embed fragment counts of chromatin in a latent space freed from batch and depth [Martens23]_.

    A variational autoencoder of how many fragments of each region a cell has, rather than of whether there are any
    (:func:`peakvi`): in deeply sequenced cells the counts say more. Its latent space goes into `sc.pp.neighbors` in
    place of LSI, its accessibility into plots, and the fitted model, which is stored in the object, answers further
    questions (`tl.denoise`, `get.*`). Use it for counts of fragments; those of reads are turned into such by
    `pp.reads_to_fragments`.

    Parameters
    ----------
    adata
        Annotated data matrix of cells x regions, with fragment counts; dense or sparse, whole or a view.
    layer
        Where the counts are; `.X` by default.
    {COLUMNS}
    size_factor_key
        Column of `.obs` with a positive size factor for each cell, instead of its total count. Accessibility is then in
        units of it and no longer sums to one.
    {COVARIATES}
    {WIDTHS}
    n_layers
        Hidden layers of the encoder and of the decoder.
    dropout_rate
        Dropout in the encoder.
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
    {RESULTS}
    {RANDOM}
    device
        `"cpu"`, `"cuda"`, ...; `settings.device` by default, which takes a GPU if there is one.
    copy
        Return a copy instead of writing to the object.
    {TRAINING}

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obsm['X_poissonvi' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Posterior mean of each cell's latent position.
    `.layers['poissonvi_denoised' | f'{key_added}_denoised']` : :class:`numpy.ndarray` (dtype `float32`)
        Accessibility, shape `(n_obs, n_vars)`: on one scale in all regions (without what is peculiar to the region);
        rows sum to 1; NaN for regions outside `mask_var`.
    `.uns['poissonvi' | key_added]` : :class:`dict`
        `'params'`: the settings; `'history'`: curves by epoch; `'model'`: the fitted model itself.

    Raises
    ------
    {RAISES}

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.simulate_multiome(200, 20, n_regions=400)["atac"]
    >>> svp.tl.poissonvi(adata, batch_key="batch", max_epochs=2)
    >>> adata.obsm["X_poissonvi"].shape
    (200, 4)
    """
    options = {
        "n_latent": n_latent,
        "n_hidden": n_hidden,
        "n_layers": n_layers,
        "dropout_rate": dropout_rate,
        "latent_distribution": latent_distribution,
        "use_observed_lib_size": use_observed_lib_size,
        "encode_covariates": encode_covariates,
        "deeply_inject_covariates": deeply_inject_covariates,
        "batch_representation": batch_representation,
        "n_batch_embedding": n_batch_embedding,
        "use_batch_norm": use_batch_norm,
        "use_layer_norm": use_layer_norm,
    }
    options = _checked(options)
    keys = {
        "layer": layer,
        "batch_key": as_keys(batch_key, "batch_key"),
        "size_factor_key": size_factor_key,
        "categorical_covariate_keys": as_keys(categorical_covariate_keys, "categorical_covariate_keys"),
        "continuous_covariate_keys": as_keys(continuous_covariate_keys, "continuous_covariate_keys"),
        "mask_var": mask_var,
    }
    check_names(keys, "size_factor_key")
    seed = seed_from(rng, random_state)
    call = Call(adata, "poissonvi", seed, key_added, denoise, save_model, device, training)
    if copy:
        call = replace(call, adata=adata.copy())
    sources, hyperparameters = _declare(call.adata, options, keys)
    options |= {"n_hidden": hyperparameters.n_hidden, "n_latent": hyperparameters.n_latent}
    fit_and_write(
        call,
        sources,
        hyperparameters,
        {**keys, **options},
        look=_chromatin.look_at_fragments,
        sparse_layer="normalize_cells=True, normalize_regions=True, threshold=0.1",
    )
    return call.adata if copy else None


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options in plain Python types, after every check that needs no data."""
    check_choices(options, CHOICES)
    check_sizes(options, *SIZES, *(name for name in ("n_hidden", "n_latent") if options[name] is not None))
    check_flags(options, *FLAGS)
    check_rate(options, "dropout_rate")
    return {**options, **{name: int(options[name]) for name in SIZES}, "dropout_rate": float(options["dropout_rate"])}


def _declare(adata: AnnData, options: dict[str, Any], keys: dict[str, Any]) -> tuple[Any, Any]:
    """What the model reads, learned from these cells, and the network that follows from it."""
    from scvi_pp._backend.models.poissonvi import Hyperparameters

    sources = inputs_of_counts(adata, keys, verb="tl.poissonvi")
    n_regions = len(sources.counts.var_names)
    widths = _chromatin.widths(n_regions, n_hidden=options["n_hidden"], n_latent=options["n_latent"])
    return sources, Hyperparameters(n_regions=n_regions, **sizes_of(sources), **{**options, **widths})
