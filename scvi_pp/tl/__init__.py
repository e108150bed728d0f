"""Tools: fit a model, or use a fitted one; each modifies the object in place."""

from __future__ import annotations

from scvi_pp.tl._denoise import denoise
from scvi_pp.tl._multivi import multivi
from scvi_pp.tl._peakvi import peakvi
from scvi_pp.tl._poissonvi import poissonvi
from scvi_pp.tl._scvi import scvi

__all__ = ["denoise", "multivi", "peakvi", "poissonvi", "scvi"]
