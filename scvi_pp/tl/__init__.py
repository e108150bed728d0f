"""Tools: fit a model, or use a fitted one; each modifies the object in place."""

from __future__ import annotations

from scvi_pp.tl._denoise import denoise
from scvi_pp.tl._differential_abundance import differential_abundance
from scvi_pp.tl._differential_accessibility import differential_accessibility
from scvi_pp.tl._differential_expression import differential_expression
from scvi_pp.tl._linear_scvi import linear_scvi
from scvi_pp.tl._map_query import map_query
from scvi_pp.tl._multivi import multivi
from scvi_pp.tl._peakvi import peakvi
from scvi_pp.tl._poissonvi import poissonvi
from scvi_pp.tl._posterior_predictive_check import posterior_predictive_check
from scvi_pp.tl._predict_labels import predict_labels
from scvi_pp.tl._scanvi import scanvi
from scvi_pp.tl._scvi import scvi
from scvi_pp.tl._simulate import simulate
from scvi_pp.tl._totalvi import totalvi
from scvi_pp.tl._transfer_labels import transfer_labels

__all__ = [
    "denoise",
    "differential_abundance",
    "differential_accessibility",
    "differential_expression",
    "linear_scvi",
    "map_query",
    "multivi",
    "peakvi",
    "poissonvi",
    "posterior_predictive_check",
    "predict_labels",
    "scanvi",
    "scvi",
    "simulate",
    "totalvi",
    "transfer_labels",
]
