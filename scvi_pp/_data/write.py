"""Every key that scvi_pp writes into an AnnData or a MuData, in one place; all of them or none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scvi_pp._data.modalities import no_columns_pulled
from scvi_pp._errors import InputError, listing

Part: TypeAlias = tuple[Any, Mapping[str, Any]]  # a place of an object, and what goes there


def key_names(model: str, key_added: str | None) -> tuple[str, str, str]:
    """Return the keys in obsm, uns and layers, as `sc.tl.umap` chooses them.

    >>> key_names("scvi", None)
    ('X_scvi', 'scvi', 'scvi_denoised')
    >>> key_names("scvi", "rna")
    ('rna', 'rna', 'rna_denoised')
    """
    if key_added is None:
        return f"X_{model}", model, f"{model}_denoised"
    check_key(key_added, argument="key_added")
    return key_added, key_added, f"{key_added}_denoised"


def check_key(name: object, *, argument: str = "key_added") -> str:
    """Return the name if h5ad and zarr files can hold it. To be called before any training."""
    if not isinstance(name, str):
        msg = f"{argument} takes a name (str), not {name!r}."
        raise InputError(msg)
    if not name or name in (".", "..") or "/" in name or "\0" in name or not _encodes(name):
        msg = f"{argument}={name!r} cannot be a key in an h5ad or zarr file. Use a name without '/', such as 'scvi_2'."
        raise InputError(msg)
    return name


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_writable(adata: AnnData) -> None:
    """Refuse what cannot take results: a view of a file. To be called before any training."""
    if adata.is_view and adata.isbacked:
        msg = "adata is a view of a file on disk and cannot take results. Call adata = adata.to_memory() first."
        raise InputError(msg)


def check_any_writable(data: AnnData | MuData) -> None:
    """Refuse what cannot take results, of either kind. To be called before any training."""
    if isinstance(data, MuData):
        check_multimodal_writable(data)
    else:
        check_writable(data)


def write(
    adata: AnnData,
    *,
    obsm: Mapping[str, Any],
    layers: Mapping[str, Any],
    uns: Mapping[str, Any],
    obs: Mapping[str, Any] | None = None,
    varm: Mapping[str, Any] | None = None,
) -> None:
    """Write all of these entries, or leave the object as it was if anything fails or is interrupted.

    A view becomes an object of its own first, as scanpy does it.
    """
    obs, varm = obs or {}, varm or {}
    check_writable(adata)
    _check(adata, obsm, layers, uns, obs, varm)
    if adata.is_view:
        adata._init_as_actual(adata.copy())  # assigning to a view would warn about just this
    _put([(adata.obsm, obsm), (adata.varm, varm), (adata.layers, layers), (adata.uns, uns), (adata.obs, obs)])


def write_multimodal(
    mdata: MuData,
    *,
    obsm: Mapping[str, Any],
    uns: Mapping[str, Any],
    layers: Mapping[str, Mapping[str, Any]],
    obs: Mapping[str, Any] | None = None,
) -> None:
    """Write these entries, layers by modality, or leave the object as it was if anything fails or is interrupted."""
    check_multimodal_writable(mdata)
    obs = {} if obs is None else obs
    for key, value in obsm.items():
        check_key(key, argument="key")
        if np.shape(value)[0] != mdata.n_obs:
            msg = f"obsm['{key}'] has shape {np.shape(value)}, which does not fit {mdata.n_obs} cells."
            raise InputError(f"{msg} Nothing was written.")
    for key in (*uns, *obs):
        check_key(key, argument="key")
    parts: list[Part] = [(mdata.obsm, obsm), (mdata.uns, uns), (mdata.obs, obs)]
    for name, entries in layers.items():
        _check(mdata.mod[name], {}, entries, {}, {}, {})
        parts.append((mdata.mod[name].layers, entries))
    _put(parts)


def write_to_cells(
    data: AnnData | MuData,
    *,
    uns: Mapping[str, Any],
    obsm: Mapping[str, Any] | None = None,
    obs: Mapping[str, Any] | None = None,
) -> None:
    """Write what is said of cells, or of the whole object, into an object of either kind; all of it or nothing."""
    if isinstance(data, MuData):
        write_multimodal(data, obsm=obsm or {}, uns=uns, layers={}, obs=obs)
    else:
        write(data, obsm=obsm or {}, layers={}, uns=uns, obs=obs)


def add_modality(mdata: MuData, name: str, modality: AnnData) -> None:
    """Put a new modality into a MuData, or leave it as it was if anything fails or is interrupted.

    Its features may have the names of those of another modality, of which mudata would warn each time.
    """
    with no_columns_pulled(), warnings.catch_warnings(action="ignore"):
        try:
            mdata.mod[name] = modality
            mdata.update()
        except BaseException:
            _remove(mdata.mod, name)
            mdata.update()
            raise


def check_multimodal_writable(mdata: MuData) -> None:
    """Refuse what cannot take results: a view, or a modality that is one. To be called before any training."""
    views = [f"mdata['{name}']" for name, modality in mdata.mod.items() if modality.is_view]
    if mdata.is_view or views:
        what = "mdata is a view" if mdata.is_view else f"{listing(views)} is a view"
        msg = f"{what} of another object and cannot take results. Call mdata = mdata.copy() first."
        raise InputError(msg)


def _put(parts: Iterable[Part]) -> None:
    parts = list(parts)
    undo = [_restoring(target, key) for target, entries in parts for key in entries]
    try:
        for target, entries in parts:
            for key, value in entries.items():
                target[key] = value
    except BaseException:  # a stop button too must not leave half of the results
        for restore in undo:
            restore()
        raise


def _restoring(target: Any, key: str) -> Callable[[], None]:
    """Return what puts an entry back as it is now."""
    if key in target:
        return partial(target.__setitem__, key, target[key])
    return partial(_remove, target, key)


def _remove(target: MutableMapping[str, Any] | pd.DataFrame, key: str) -> None:
    if key in target:
        del target[key]


def _check(
    adata: AnnData,
    obsm: Mapping[str, Any],
    layers: Mapping[str, Any],
    uns: Mapping[str, Any],
    obs: Mapping[str, Any],
    varm: Mapping[str, Any],
) -> None:
    """Find what AnnData would refuse before anything is written."""
    for entries in (obsm, layers, uns, obs, varm):
        for key in entries:
            check_key(key, argument="key")
    for place, entries in (("obsm", obsm), ("layers", layers), ("obs", obs), ("varm", varm)):
        for key, value in entries.items():
            _check_shape(f"{place}['{key}']", place, np.shape(value), adata)
            index, name = (adata.var_names, "var_names") if place == "varm" else (adata.obs_names, "obs_names")
            if isinstance(value, pd.Series | pd.DataFrame) and not value.index.equals(index):
                msg = f"{place}['{key}'] has an index that is not {name}. Nothing was written."
                raise InputError(msg)


def _check_shape(where: str, place: str, shape: tuple[int, ...], adata: AnnData) -> None:
    fits = {
        "obsm": len(shape) >= 2 and shape[0] == adata.n_obs,
        "varm": len(shape) >= 2 and shape[0] == adata.n_vars,
        "layers": shape == adata.shape,
        "obs": shape == (adata.n_obs,),
    }
    if not fits[place]:
        size = f"{adata.n_obs} cells and {adata.n_vars} features"
        msg = f"{where} has shape {shape}, which does not fit {size}. Nothing was written."
        raise InputError(msg)
