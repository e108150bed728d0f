"""Plots: drawn from what is stored in the object."""

from __future__ import annotations

from scvi_pp.pl._history import history
from scvi_pp.pl._volcano import volcano

__all__ = ["history", "volcano"]
