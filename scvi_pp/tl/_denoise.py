"""Denoised expression or accessibility of a fitted model, as a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scvi_pp import _docs
from scvi_pp._data.multiome import copied
from scvi_pp._data.read import check_annotated
from scvi_pp._data.write import add_modality, check_any_writable, check_key, write, write_multimodal
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_flag, checked_library_size, checked_samples, checked_threshold
from scvi_pp.tl._fitting import denoised_layer
from scvi_pp.tl._fitting_multimodal import denoised_of_modality, name_beside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    ADATA_NEW=_docs.ADATA_NEW.replace("Ask about", "Denoise, and write to,"),
    NORMALIZE=_docs.NORMALIZE,
    BACKGROUND=_docs.BACKGROUND,
    TRANSFORM_BATCH=_docs.TRANSFORM_BATCH,
    N_SAMPLES=_docs.N_SAMPLES,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def denoise(
    adata: AnnData | MuData,
    *,
    key: str | None = None,
    mod: str | None = None,
    adata_new: AnnData | MuData | None = None,
    genes: Sequence[str] | str | None = None,
    regions: Sequence[str] | str | None = None,
    library_size: float | Literal["latent"] = 1.0,
    normalize_cells: bool = False,
    normalize_regions: bool = False,
    include_background: bool = False,
    transform_batch: object = None,
    n_samples: int | None = None,
    threshold: float | None = None,
    batch_size: int | None = None,
    key_added: str | None = None,
    mod_added: str | None = None,
    rng: Seed = None,
    random_state: Seed = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Write denoised expression, or accessibility, of a fitted model into a layer.

    What the model expects of each cell, freed from sampling noise and, with `transform_batch`, from batch effects. Use
    it for plots and correlations; for tests between groups use the model itself, since denoised values are smoother than
    data and make tests too sure. Memory is the layer and a constant; with `threshold` the layer is sparse, which a
    matrix of a hundred thousand regions has to be.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    mod
        Which modality, of a model of a `MuData`: its name there, RNA by default if there is any. The layer holds its own
        cells; for those of others too see `mod_added`.
    {ADATA_NEW}
    genes, regions
        Denoise these genes only, or these regions if the model is one of chromatin; give one of the two. The others are
        NaN in the layer (absent from a sparse one). For a small table see `get.denoised`.
    library_size
        The total that each cell's expression is scaled to: 1 gives shares, 1e4 counts per ten thousand, `"latent"` the
        cell's own library size, which makes values comparable to the counts. After a fit with `size_factor_key`, what
        the expression per unit of size factor is multiplied with. Of PeakVI, whose values are probabilities, a factor
        of at most 1.
    {NORMALIZE}
    {BACKGROUND}
    {TRANSFORM_BATCH}
    {N_SAMPLES}
    threshold
        Values below become zero, after any averaging, and the layer is sparse. 0 keeps every value.
    {BATCH_SIZE}
    key_added
        Name of the layer, f"{key}_denoised" by default.
    mod_added
        Of a `MuData`: name of a new modality. Its `.X` then has the values of all cells, imputed where the modality was
        not measured, of the features that were asked for; no layer is written. Its features have the names of the
        measured ones, which mudata remarks on when it joins names.
    {RANDOM}
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following field:

    `.layers['scvi_denoised' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_vars)`)
        Denoised values; NaN for what was not modelled or not asked for. With `threshold`
        :class:`scipy.sparse.csr_matrix` (dtype `float32`), without entries there. Proteins that the fit read from `.obsm`
        go to `.obsm['totalvi_protein' | key_added]`, a :class:`pandas.DataFrame` of all that were modelled.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.denoise(adata, library_size=1e4)
    >>> float(adata.layers["scvi_denoised"].sum(1).mean().round())
    10000.0
    """
    target = adata if adata_new is None else adata_new
    check_annotated(target, verb="tl.denoise")
    if copy:
        target = copied(target)
    size, draws, least = checked_library_size(library_size), checked_samples(n_samples), checked_threshold(threshold)
    by_cell = checked_flag("normalize_cells", normalize_cells)
    by_region = checked_flag("normalize_regions", normalize_regions)
    with_background = checked_flag("include_background", include_background)
    seed = seed_from(rng, random_state)
    layer = None if key_added is None else check_key(key_added)
    _check_modality_added(target, mod_added, key_added)
    model = open_model(adata, key, verb="tl.denoise", adata_new=target, mod=mod, seed=seed, batch_size=batch_size)
    options = model.denoising(
        library_size=size,
        normalize_cells=by_cell,
        normalize_regions=by_region,
        include_background=with_background,
        transform_batch=transform_batch,
        n_samples=draws,
    )
    asked: dict[str, Any] = {"columns": model.columns(genes, regions), "threshold": least, "options": options}
    layer = layer or f"{model.key}_denoised"
    check_any_writable(target)
    if mod_added is not None:
        names = model.named(None if asked["columns"] is None else np.unique(asked["columns"]))
        values = denoised_layer(model.posterior, pd.Index(names), model.features, **asked)
        var = _imputed_features(target, model.source.modality, names)
        add_modality(target, mod_added, AnnData(values, obs=pd.DataFrame(index=target.obs_names), var=var))
    elif isinstance(target, MuData):
        _check_there(target, model.source.modality)
        values = denoised_of_modality(model.posterior, target, model.source, **asked)
        write_multimodal(target, obsm={}, uns={}, layers={model.source.modality: {layer: values}})
    elif model.obsm is not None:
        values = denoised_layer(model.posterior, pd.Index(model.features), model.features, **asked)
        table = values if least is not None else pd.DataFrame(values, target.obs_names, list(model.features))
        write(target, obsm={key_added or name_beside(model.key, model.counts): table}, layers={}, uns={})
    else:
        values = denoised_layer(model.posterior, target.var_names, model.features, **asked)
        write(target, obsm={}, layers={layer: values}, uns={})
    return target if copy else None


def _imputed_features(mdata: MuData, modality: str, names: list[str]) -> pd.DataFrame:
    """The table of features of a modality, if a query has it; what is imputed is no measurement of their type."""
    if modality not in mdata.mod:
        return pd.DataFrame(index=names)
    return mdata.mod[modality].var.loc[names].drop(columns="feature_types", errors="ignore")


def _check_there(mdata: MuData, modality: str) -> None:
    """Refuse a layer of a modality that the query does not have."""
    if modality not in mdata.mod:
        msg = f"mdata has no modality '{modality}', and so no place for its layer. mod_added='imputed' makes a new one."
        raise InputError(msg)


def _check_modality_added(target: AnnData | MuData, mod_added: str | None, key_added: str | None) -> None:
    """Refuse a new modality where there can be none."""
    if mod_added is None:
        return
    check_key(mod_added, argument="mod_added")
    if not isinstance(target, MuData):
        raise InputError("mod_added makes a new modality of a MuData, and this is an AnnData. Use key_added.")
    if key_added is not None:
        raise InputError("key_added names a layer and mod_added a new modality: give one of the two.")
    if mod_added in target.mod:
        msg = f"mod_added={mod_added!r}: mdata has that modality already. Take another name, or del mdata.mod[{mod_added!r}]."
        raise InputError(msg)
