"""From the arrays of several modalities to results in a MuData: what a multimodal verb does after it has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvi_pp import _logging
from scvi_pp._data.multiome import rows_of_modality
from scvi_pp._data.read import read
from scvi_pp._data.write import key_names, write_multimodal
from scvi_pp._errors import InputError
from scvi_pp._settings import settings
from scvi_pp.tl._fitting import denoised_layer, record_of, report, trained
from scvi_pp.tl._mixing import mixing_score

if TYPE_CHECKING:
    from mudata import MuData
    from scipy.sparse import csr_matrix

    from scvi_pp._data.multiome import ModalityCounts
    from scvi_pp.tl._fitting import Call

# the parts of a network of several modalities, in the order of `present`
PARTS = ("expression", "accessibility", "protein")
ISLAND = 0.2  # a mixing score below means that a kind of cells lies by itself


def fit_and_write_multimodal(call: Call, sources: Any, hyperparameters: Any, params: dict[str, Any]) -> None:
    """Train the model on the object's cells, then write latent, denoised layers and model, all or nothing."""
    from scvi_pp._backend.query import Posterior

    fitted = trained(
        call, hyperparameters, lambda: _read(call, sources), groups_of=lambda arrays: _kinds(arrays.present)
    )
    options = {"seed": call.seed, "n_trained_rows": fitted.n_rows}
    latent = Posterior(fitted.network, fitted.cells, **options).latent_mean()
    obsm_key, uns_key, layer_key = key_names(call.model, call.key_added)
    layers: dict[str, dict[str, Any]] = {}
    for part, source in _modelled(sources).items():
        posterior = Posterior(fitted.network.about(part), fitted.cells, **options)
        layers[source.modality] = _layer(call, posterior, source, layer_key, is_chromatin=part == "accessibility")
    scores = _mixing(call, sources, latent)
    record = record_of(call, sources, hyperparameters, {**params, **scores}, fitted)
    write_multimodal(call.adata, obsm={obsm_key: latent}, uns={uns_key: record}, layers=layers)
    written = [f"mdata['{name}'].layers['{key}']" for name, entries in layers.items() for key in entries]
    report(call, fitted, [f"obsm['{obsm_key}']", *written, f"uns['{uns_key}']"])


def _modelled(sources: Any) -> dict[str, ModalityCounts]:
    """The source of each modality that the model has."""
    named = sources._asdict()
    return {part: named[part] for part in PARTS if named[part] is not None}


def _read(call: Call, sources: Any) -> Any:
    arrays = read(call.adata, sources, verb=call.verb)
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


def _kinds(present: np.ndarray) -> np.ndarray:
    """Cells by what was measured in them: a bit for each modality."""
    codes: np.ndarray = present.astype(np.int64) @ (1 << np.arange(present.shape[1]))
    return codes


def _layer(call: Call, posterior: Any, source: ModalityCounts, layer_key: str, *, is_chromatin: bool) -> dict[str, Any]:
    """The denoised layer of a modality, for its own cells, if it is wanted and may be that large."""
    modality = call.adata.mod[source.modality]
    n_bytes = 4 * modality.n_obs * modality.n_vars
    if call.denoise is False:
        return {}
    if call.denoise is None and n_bytes > settings.max_layer_bytes:
        _, key, _ = key_names(call.model, call.key_added)
        sparse = ", threshold=0.1" if is_chromatin else ""
        _logging.info(
            f"The denoised layer of mdata['{source.modality}'] would take {n_bytes / 1e9:.1f} GB, more than "
            f"settings.max_layer_bytes: not written. Get it with tl.denoise(mdata, key={key!r}, "
            f"mod={source.modality!r}{sparse}), or some columns with get.denoised."
        )
        return {}
    try:
        return {layer_key: denoised_of_modality(posterior, call.adata, source)}
    except (KeyboardInterrupt, MemoryError) as error:  # the model is worth more than the layer
        reason = "was stopped" if isinstance(error, KeyboardInterrupt) else "does not fit into memory"
        _logging.warning(f"The denoised layer {reason}: the model is written without it. tl.denoise writes it later.")
        if layer_key in modality.layers:
            _logging.warning(f"mdata['{source.modality}'].layers['{layer_key}'] is still that of the earlier fit.")
        return {}


def denoised_of_modality(
    posterior: Any, mdata: MuData, source: ModalityCounts, **asked: Any
) -> np.ndarray | csr_matrix:
    """Denoised values shaped like the modality: of its own cells; NaN for what was not modelled or not asked for."""
    modality = mdata.mod[source.modality]
    every = denoised_layer(posterior, modality.var_names, source.var_names or (), **asked)
    rows = rows_of_modality(mdata, source.modality)
    if np.array_equal(rows, np.arange(modality.n_obs)):
        return every
    places = np.empty(modality.n_obs, dtype=np.int64)
    places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    return every[places]


def _mixing(call: Call, sources: Any, latent: np.ndarray) -> dict[str, float]:
    """How well cells with different modalities mix; a kind of them that lies by itself is remarked on."""
    groups = _kinds(sources.present.read(call.adata))
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
