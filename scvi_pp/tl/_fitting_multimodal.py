"""From the arrays of several modalities to results in a MuData: what a multimodal verb does after it has read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from scvi_pp import _logging
from scvi_pp._data.multiome import rows_of_modality
from scvi_pp._data.read import read
from scvi_pp._data.write import key_names, write, write_multimodal
from scvi_pp._errors import InputError
from scvi_pp.tl._fitting import PLAIN, denoised_layer, layer_if_wanted, record_of, report, trained
from scvi_pp.tl._mixing import mixing_score

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from scvi_pp._data.multiome import ModalityCounts
    from scvi_pp.tl._fitting import Call

# the parts of a network of several modalities, in the order of `present`
PARTS = ("expression", "accessibility", "protein")
ISLAND = 0.2  # a mixing score below means that a kind of cells lies by itself


def fit_and_write_multimodal(
    call: Call, mdata: MuData, sources: Any, hyperparameters: Any, params: dict[str, Any]
) -> None:
    """Train the model on the cells of a MuData, then write latent, denoised layers and model, all or nothing.

    They are written to the object of the call: this MuData, or the AnnData that holds the features of all its modalities.
    """
    from scvi_pp._backend.query import Posterior

    fitted = trained(call, hyperparameters, lambda: _read(call, mdata, sources), groups_of=kinds_of_cells)
    options = {"seed": call.seed, "n_trained_rows": fitted.n_rows}
    latent = Posterior(fitted.network, fitted.cells, **options).latent_mean()
    obsm_key, uns_key, layer_key = key_names(call.model, call.key_added)
    parts = {
        part: (source, Posterior(fitted.network.about(part), fitted.cells, **options))
        for part, source in _modelled(sources).items()
    }
    scores = _mixing(call, mdata, sources, latent)
    record = record_of(call, sources, hyperparameters, {**params, **scores}, fitted)
    entries: dict[str, Any] = {"obsm": {obsm_key: latent}, "uns": {uns_key: record}}
    if isinstance(call.adata, MuData):
        layers = {source.modality: _layer(call, part, posterior, source) for part, (source, posterior) in parts.items()}
        write_multimodal(call.adata, layers=layers, **entries)
        written = [f"mdata['{name}'].layers['{key}']" for name, made in layers.items() for key in made]
    else:
        layer = _layer_of_all(call, {part: held for part, held in parts.items() if held[0].obsm is None})
        beside = _tables_beside(call, mdata, {part: held for part, held in parts.items() if held[0].obsm is not None})
        write(call.adata, layers=layer, uns=entries["uns"], obsm=entries["obsm"] | beside)
        written = [*(f"layers['{key}']" for key in layer), *(f"obsm['{key}']" for key in beside)]
    report(call, fitted, [f"obsm['{obsm_key}']", *written, f"uns['{uns_key}']"])


def _modelled(sources: Any) -> dict[str, ModalityCounts]:
    """The source of each modality that the model has."""
    named = sources._asdict()
    return {part: named[part] for part in PARTS if named.get(part) is not None}


def _read(call: Call, mdata: MuData, sources: Any) -> Any:
    arrays = read(mdata, sources, verb=call.verb)
    total = np.zeros(len(arrays.present))
    for part, source in _modelled(sources).items():
        counts = getattr(arrays, part)
        if not counts.nnz:
            raise InputError(f"{source.place} holds no count above zero. Leave the modality out, or pass its counts.")
        total += np.diff(counts.indptr)
    n_empty = int((total == 0).sum())
    if n_empty:
        _logging.warning(
            f"{n_empty:,} of {len(total):,} cells have no counts in any modality: their latent position says nothing. "
            "Consider leaving them out."
        )
    return arrays


def kinds_of_cells(arrays: Any) -> np.ndarray:
    """Cells by what was measured in them, (cells,)."""
    return _kinds(arrays.present)


def _kinds(present: np.ndarray) -> np.ndarray:
    """A bit for each modality."""
    codes: np.ndarray = present.astype(np.int64) @ (1 << np.arange(present.shape[1]))
    return codes


def _layer(call: Call, part: str, posterior: Any, source: ModalityCounts) -> dict[str, Any]:
    """The denoised layer of a modality, for its own cells."""
    _, uns_key, layer_key = key_names(call.model, call.key_added)
    sparse = ", threshold=0.1" if part == "accessibility" else ""
    return layer_if_wanted(
        call,
        call.adata.mod[source.modality],
        layer_key,
        lambda: denoised_of_modality(posterior, call.adata, source),
        place=f"mdata['{source.modality}']",
        way=f"Get it with tl.denoise(mdata, key={uns_key!r}, mod={source.modality!r}{sparse}), or some columns with "
        "get.denoised.",
    )


def _layer_of_all(call: Call, parts: dict[str, tuple[ModalityCounts, Any]]) -> dict[str, Any]:
    """The denoised layer of an AnnData that holds all features: of all cells, also where they were not measured."""
    adata: AnnData = call.adata
    _, uns_key, layer_key = key_names(call.model, call.key_added)

    def made() -> np.ndarray:
        out = np.full(adata.shape, np.nan, dtype=np.float32)
        for source, posterior in parts.values():
            posterior.denoised(
                out, columns=None, into=adata.var_names.get_indexer(list(source.var_names or ())), **PLAIN
            )
        return out

    way = (
        f"Get that of a modality with tl.denoise(adata, key={uns_key!r}, mod='rna'), or some columns with get.denoised."
    )
    return layer_if_wanted(call, adata, layer_key, made, way=way)


def _tables_beside(call: Call, mdata: MuData, parts: dict[str, tuple[ModalityCounts, Any]]) -> dict[str, Any]:
    """Denoised values of what lies in `obsm`: a table of all cells, also where they were not measured."""
    _, uns_key, _ = key_names(call.model, call.key_added)
    tables: dict[str, Any] = {}
    for part, (source, posterior) in parts.items():
        tables |= layer_if_wanted(
            call,
            mdata.mod[source.modality],
            name_beside(uns_key, part),
            partial(_table, posterior, call.adata, source),
            place=f"obsm['{source.obsm}']",
            way=f"Get it with tl.denoise(adata, key={uns_key!r}, mod={source.modality!r}), or with get.denoised.",
        )
    return tables


def name_beside(uns_key: str, part: str) -> str:
    """The name in `obsm` of denoised values of what lies there.

    >>> name_beside("totalvi", "protein")
    'totalvi_protein'
    """
    return f"{uns_key}_{part}"


def _table(posterior: Any, adata: AnnData, source: ModalityCounts) -> pd.DataFrame:
    names = list(source.var_names or ())
    values = denoised_layer(posterior, pd.Index(names), tuple(names))
    return pd.DataFrame(values, index=adata.obs_names, columns=names)


def denoised_of_modality(
    posterior: Any, mdata: MuData, source: ModalityCounts, **asked: Any
) -> np.ndarray | csr_matrix:
    """Denoised values shaped like the modality: of its own cells; NaN for what was not modelled or not asked for."""
    modality, rows = mdata.mod[source.modality], rows_of_modality(mdata, source.modality)
    to_rows = None if np.array_equal(rows, np.arange(modality.n_obs)) else rows
    return denoised_layer(posterior, modality.var_names, source.var_names or (), to_rows=to_rows, **asked)


def _mixing(call: Call, mdata: MuData, sources: Any, latent: np.ndarray) -> dict[str, float]:
    """How well cells with different modalities mix; a kind of them that lies by itself is remarked on."""
    groups = _kinds(sources.present.read(mdata))
    if len(np.unique(groups)) < 2:
        return {}
    names = [name or "" for name in sources.present.modalities]
    scores = {}
    for code, score in mixing_score(latent, groups, seed=call.seed).items():
        what = " and ".join(name for bit, name in enumerate(names) if code >> bit & 1)
        scores[f"mixing of cells with {what}"] = round(score, 3)
        if score < ISLAND:
            _logging.warning(
                f"Cells with {what} lie by themselves in the latent space (mixing score {score:.2f}; 1 is as well mixed "
                "as chance would have it). They may be of other types, or the modalities were not brought together: "
                "see whether cells measured in both modalities lie between, and try adversarial_mixing=True with a "
                "batch_key that tells the experiments apart."
            )
    return scores
