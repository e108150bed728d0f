"""Modalities by what their features are: of a MuData without telling names, or of an AnnData that holds them all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scvi_pp._data.counts import in_memory
from scvi_pp._data.modalities import multimodal
from scvi_pp._errors import InputError, MissingKeyError, listing, missing_key

FEATURE_TYPES = {"rna": "Gene Expression", "atac": "Peaks", "protein": "Antibody Capture"}  # as 10x names them
USUAL_NAMES = {
    "rna": ("rna", "gex", "expression", "gene expression"),
    "atac": ("atac", "peaks", "accessibility", "chromatin accessibility"),
    "protein": ("protein", "prot", "adt", "cite", "antibody capture"),
}
COLUMNS = ("feature_types", "modality")  # of var, in which an AnnData may say what each feature is


def modality_of_type(name: object) -> str | None:
    """Return which modality features of this type make up.

    >>> modality_of_type("Peaks"), modality_of_type("adt"), modality_of_type("CRISPR Guide Capture")
    ('atac', 'protein', None)
    """
    lower = str(name).lower()
    return next((modality for modality, names in USUAL_NAMES.items() if lower in names), None)


def by_feature_type(adata: AnnData, layers: Mapping[str, str | None]) -> MuData:
    """Return the modalities of an AnnData that holds all features: their counts, the table of cells, and no more.

    A cell was measured in a modality if it has a count among its features; one without any count is taken to be of the
    first modality. `layers` says where the counts of each are, `X` by default.
    """
    if not adata.obs_names.is_unique:
        twice = listing(adata.obs_names[adata.obs_names.duplicated()].unique(), limit=3, quoted=True)
        msg = f"adata.obs_names hold {twice} more than once. Call adata.obs_names_make_unique()."
        raise InputError(msg)
    types = modalities_of_features(adata)
    counts = {
        name: _counts(adata, layers.get(name))[:, np.flatnonzero(types == name)]
        for name in FEATURE_TYPES
        if (types == name).any()
    }
    measured = {name: np.asarray((matrix != 0).sum(1)).ravel() > 0 for name, matrix in counts.items()}
    measured[next(iter(measured))] |= ~np.any(list(measured.values()), axis=0)
    modalities = {}
    for name, matrix in counts.items():
        rows, layer = np.flatnonzero(measured[name]), layers.get(name)
        held = matrix if len(rows) == adata.n_obs else matrix[rows]
        where: dict[str, Any] = {"X": held} if layer is None else {"layers": {layer: held}}
        obs, var = pd.DataFrame(index=adata.obs_names[rows]), adata.var[types == name]
        modalities[name] = AnnData(obs=obs, var=var, **where)
    return multimodal(modalities, adata.obs)


def modalities_of_features(adata: AnnData) -> npt.NDArray[np.object_]:
    """Return which modality each feature is of, None for one of another type."""
    column = next((name for name in COLUMNS if name in adata.var.columns), None)
    if column is None:
        known = [str(name) for name in adata.var.columns]
        way_out = (
            "It tells genes ('Gene Expression') from regions ('Peaks'): add it, or join objects of one modality each "
            "with pp.organize_multiome."
        )
        raise missing_key("adata.var", "column", COLUMNS[0], known, way_out=way_out)
    types = np.array([modality_of_type(name) for name in adata.var[column]], dtype=object)
    if not any(types):
        held = listing(map(str, adata.var[column].unique()), quoted=True)
        msg = f"adata.var['{column}'] holds {held}, and none of {listing(FEATURE_TYPES.values(), quoted=True)}. Rename them."
        raise InputError(msg)
    return types


def _counts(adata: AnnData, layer: str | None) -> Any:
    names = [str(name) for name in adata.layers if name is not None]
    if layer is not None and layer not in names:
        raise missing_key("adata", "layer", layer, names)
    matrix = in_memory(adata.X if layer is None else adata.layers[layer])
    if matrix is None:
        raise InputError("adata.X is empty (None). Name the layers that hold counts: rna_layer=..., atac_layer=...")
    return matrix


@contextmanager
def said_of_adata(obsm: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let errors about the modalities of a MuData speak of the AnnData that they were made from.

    `obsm` says which modalities lie in its `obsm`, and where.
    """
    try:
        yield
    except (InputError, MissingKeyError) as error:
        message = str(error)
        for modality, key in (obsm or {}).items():
            message = re.sub(rf"mdata\['{modality}'\](: X|\.X)?", f"adata.obsm['{key}']", message)
        if obsm:
            message = re.sub(r"mdata\['\w+'\][.:] ?", "adata: ", message)
        message = re.sub(r"mdata\['(\w+)'\]", r"adata (features of '\1')", message).replace("mdata", "adata")
        raise type(error)(message) from error
