"""PeakVI: the call, what it reads and what it writes. What is assumed is in `_backend/models/peakvi.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from scvi_pp import _docs
from scvi_pp._data.columns import as_keys
from scvi_pp._data.counts import Counts
from scvi_pp._data.read import learn
from scvi_pp._data.sources import Categories, Category, Numbers, Share
from scvi_pp._errors import InputError
from scvi_pp._seed import seed_from
from scvi_pp.tl import _chromatin
from scvi_pp.tl._fitting import Call, fit_and_write
from scvi_pp.tl._inputs_of_counts import sizes_of
from scvi_pp.tl._options import (
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

CHOICES = {"latent_distribution": LatentDistribution, "use_batch_norm": Where, "use_layer_norm": Where}
SIZES = ("n_layers_encoder", "n_layers_decoder")
FLAGS = ("cell_factors", "region_factors", "encode_covariates", "deeply_inject_covariates")


@_docs.documented(
    COLUMNS=_chromatin.COLUMNS,
    COVARIATES=_chromatin.COVARIATES,
    WIDTHS=_chromatin.WIDTHS,
    RESULTS=_chromatin.RESULTS,
    RAISES=_chromatin.RAISES,
    RANDOM=_docs.RANDOM,
    TRAINING=documented_for("peakvi"),
)
def peakvi(
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
    n_layers_encoder: int = 2,
    n_layers_decoder: int = 2,
    dropout_rate: float = 0.1,
    latent_distribution: LatentDistribution = "normal",
    cell_factors: bool = True,
    region_factors: bool = True,
    encode_covariates: bool = False,
    deeply_inject_covariates: bool = False,
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
    """Embed single-cell accessibility of chromatin in a latent space freed from batch and depth [Ashuach22]_.

    A variational autoencoder of which regions are open in a cell. Its latent space goes into `sc.pp.neighbors` in place
    of LSI, its accessibility into plots, and the fitted model, which is stored in the object, answers further questions
    (`tl.denoise`, `get.*`). What is peculiar to a cell (how deeply it was sequenced) and to a region (how well it can
    be seen) has a factor of its own and is kept out of accessibility. Use it for binary data and wherever most open
    regions have one fragment; :func:`poissonvi` for fragment counts that say more.

    Parameters
    ----------
    adata
        Annotated data matrix of cells x regions, with counts or zeros and ones; dense or sparse, whole or a view. Any
        positive count is open: counts and their binary form give the same model.
    layer
        Where the counts are; `.X` by default.
    {COLUMNS}
    size_factor_key
        Column of `.obs` with the factor of each cell, above 0 and at most 1, instead of one that is inferred.
    {COVARIATES}
    {WIDTHS}
    n_layers_encoder, n_layers_decoder
        Hidden layers of the encoder and of the decoder.
    dropout_rate
        Dropout in the encoder.
    latent_distribution
        `"normal"`, or `"ln"` for a latent space on the simplex (each cell a mixture of `n_latent` archetypes).
    cell_factors
        Infer from each cell how deeply it was sequenced; `False` takes every cell to be as deep as any other.
    region_factors
        Learn for each region how well it can be seen; `False` leaves this to accessibility.
    encode_covariates
        Show batch and covariates to the encoder too.
    deeply_inject_covariates
        Show categories to every hidden layer of the decoder rather than the first alone.
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

    `.obsm['X_peakvi' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Posterior mean of each cell's latent position.
    `.layers['peakvi_denoised' | f'{key_added}_denoised']` : :class:`numpy.ndarray` (dtype `float32`)
        Accessibility, shape `(n_obs, n_vars)`: the chance that a region is open in such a cell, without the factors of
        cell and region; NaN for regions outside `mask_var`.
    `.uns['peakvi' | key_added]` : :class:`dict`
        `'params'`: the settings; `'history'`: curves by epoch; `'model'`: the fitted model itself.

    Raises
    ------
    {RAISES}

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.simulate_multiome(200, 20, n_regions=400)["atac"]
    >>> svp.tl.peakvi(adata, batch_key="batch", max_epochs=2)
    >>> adata.obsm["X_peakvi"].shape
    (200, 4)
    """
    options = {
        "n_latent": n_latent,
        "n_hidden": n_hidden,
        "n_layers_encoder": n_layers_encoder,
        "n_layers_decoder": n_layers_decoder,
        "dropout_rate": dropout_rate,
        "latent_distribution": latent_distribution,
        "cell_factors": cell_factors,
        "region_factors": region_factors,
        "encode_covariates": encode_covariates,
        "deeply_inject_covariates": deeply_inject_covariates,
        "use_batch_norm": use_batch_norm,
        "use_layer_norm": use_layer_norm,
    }
    options = _checked(options, size_factor_key)
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
    call = Call(adata, "peakvi", seed, key_added, denoise, save_model, device, training)
    if copy:
        call = replace(call, adata=adata.copy())
    sources, hyperparameters = _declare(call.adata, options, **keys)
    options |= {"n_hidden": hyperparameters.n_hidden, "n_latent": hyperparameters.n_latent}
    fit_and_write(
        call,
        sources,
        hyperparameters,
        {**keys, **options},
        look=_chromatin.look_at_regions,
        sparse_layer="threshold=0.1",
    )
    return call.adata if copy else None


def _checked(options: dict[str, Any], size_factor_key: str | None) -> dict[str, Any]:
    """The options in plain Python types, after every check that needs no data."""
    check_choices(options, CHOICES)
    check_sizes(options, *SIZES, *(name for name in ("n_hidden", "n_latent") if options[name] is not None))
    check_flags(options, *FLAGS)
    check_rate(options, "dropout_rate")
    if size_factor_key is not None and not options["cell_factors"]:
        msg = (
            "size_factor_key gives factors of the cells, and cell_factors=False leaves them out: choose one of the two."
        )
        raise InputError(msg)
    return {**options, **{name: int(options[name]) for name in SIZES}, "dropout_rate": float(options["dropout_rate"])}


def _declare(
    adata: AnnData,
    options: dict[str, Any],
    *,
    layer: str | None,
    batch_key: tuple[str, ...],
    size_factor_key: str | None,
    categorical_covariate_keys: tuple[str, ...],
    continuous_covariate_keys: tuple[str, ...],
    mask_var: str | None,
) -> tuple[Any, Any]:
    """What the model reads, learned from these cells, and the network that follows from it."""
    from scvi_pp._backend.models.peakvi import Hyperparameters, Inputs

    sources: Any = learn(
        adata,
        Inputs(
            counts=Counts(layer, mask_var),
            batch=Category(batch_key),
            categories=Categories(categorical_covariate_keys),
            numbers=Numbers(continuous_covariate_keys),
            size_factor=Share(size_factor_key),
        ),
        verb="tl.peakvi",
    )
    n_regions = len(sources.counts.var_names)
    widths = _chromatin.widths(n_regions, n_hidden=options["n_hidden"], n_latent=options["n_latent"])
    hyperparameters = Hyperparameters(n_regions=n_regions, **sizes_of(sources), **{**options, **widths})
    return sources, hyperparameters
