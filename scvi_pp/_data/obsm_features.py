"""The modalities of an AnnData whose proteins lie beside its genes, in `obsm`: as models of a MuData read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from scvi_pp._data.counts import in_memory
from scvi_pp._data.feature_types import by_feature_type
from scvi_pp._data.modalities import multimodal
from scvi_pp._data.multiome import ModalityCounts
from scvi_pp._errors import InputError, listing, missing_key


def modalities_of(adata: AnnData, sources: Iterable[ModalityCounts]) -> MuData:
    """Return the modalities of an AnnData that these sources read: from `obsm` where they say so, else by feature type."""
    named = list(sources)
    beside = next((source for source in named if source.obsm is not None), None)
    if beside is None:
        return by_feature_type(adata, {source.modality: source.counts.layer for source in named})
    genes = next(source for source in named if source.obsm is None)
    return beside_genes(adata, genes, beside)


def beside_genes(adata: AnnData, genes: ModalityCounts, proteins: ModalityCounts) -> MuData:
    """Return the genes of an AnnData and the proteins of its `obsm` as modalities, with the table of cells and no more.

    RNA was measured in all cells, and proteins in those that have a count of any.
    """
    if not adata.obs_names.is_unique:
        twice = listing(adata.obs_names[adata.obs_names.duplicated()].unique(), limit=3, quoted=True)
        msg = f"adata.obs_names hold {twice} more than once. Call adata.obs_names_make_unique()."
        raise InputError(msg)
    matrix, names = _proteins(adata, proteins)
    measured = _has_counts(matrix)
    held = AnnData(
        matrix[measured], obs=pd.DataFrame(index=adata.obs_names[measured]), var=pd.DataFrame(index=pd.Index(names))
    )
    return multimodal({genes.modality: _genes(adata, genes), proteins.modality: held}, adata.obs)


def _genes(adata: AnnData, genes: ModalityCounts) -> AnnData:
    """Return the genes alone: where their counts are, what is known of them, and the names of all cells."""
    layer = genes.counts.layer
    names = [str(name) for name in adata.layers if name is not None]
    if layer is not None and layer not in names:
        raise missing_key("adata", "layer", layer, names)
    matrix = in_memory(adata.X if layer is None else adata.layers[layer])
    if matrix is None:
        msg = "adata.X is empty (None). Name the layer that holds counts: rna_layer=..."
        raise InputError(msg)
    where: dict[str, Any] = {"X": matrix} if layer is None else {"layers": {layer: matrix}}
    return AnnData(obs=pd.DataFrame(index=adata.obs_names), var=adata.var, **where)


def _proteins(adata: AnnData, proteins: ModalityCounts) -> tuple[Any, list[str]]:
    """Return the counts of the proteins, (n_obs, n_proteins), and their names: of a table, of `uns`, or by number."""
    key = proteins.obsm
    if key not in adata.obsm:
        raise missing_key("adata", "obsm", str(key), [str(name) for name in adata.obsm])
    found = adata.obsm[key]
    is_table = isinstance(found, pd.DataFrame)
    matrix = found.to_numpy() if is_table else in_memory(found)
    matrix = sp.csr_matrix(matrix) if sp.issparse(matrix) else np.asarray(matrix)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        msg = f"adata.obsm['{key}'] holds {matrix.dtype} in {matrix.ndim} dimensions, and has to be a table of counts."
        raise InputError(msg)
    if proteins.names_key is not None:
        return matrix, _names_of_uns(adata, proteins.names_key, matrix.shape[1], str(key))
    if is_table:
        return matrix, [str(name) for name in found.columns]
    known = proteins.var_names or ()
    return matrix, list(known) if len(known) == matrix.shape[1] else [f"protein_{i}" for i in range(matrix.shape[1])]


def _names_of_uns(adata: AnnData, names_key: str, n_proteins: int, obsm: str) -> list[str]:
    if names_key not in adata.uns:
        raise missing_key("adata", "uns key", names_key, [str(name) for name in adata.uns])
    names = [str(name) for name in np.asarray(adata.uns[names_key]).ravel()]
    if len(names) != n_proteins:
        msg = f"adata.uns['{names_key}'] holds {len(names)} names, and adata.obsm['{obsm}'] has {n_proteins} columns."
        raise InputError(msg)
    return names


def _has_counts(matrix: Any) -> npt.NDArray[np.bool_]:
    """Return which cells have a count of any protein; of cells that were joined without proteins all are NaN."""
    if sp.issparse(matrix):
        found: npt.NDArray[np.bool_] = np.diff(sp.csr_matrix(matrix != 0).indptr) > 0
        return found
    is_nan = np.isnan(matrix) if matrix.dtype.kind == "f" else np.zeros(matrix.shape, dtype=bool)
    has: npt.NDArray[np.bool_] = ((matrix != 0) & ~is_nan.all(1, keepdims=True)).any(1)
    return has
