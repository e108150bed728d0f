"""Plots: drawn from what is stored in the object."""

from __future__ import annotations

from scvi_pp.pl._abundance import abundance
from scvi_pp.pl._history import history
from scvi_pp.pl._loadings import loadings
from scvi_pp.pl._posterior_predictive_check import posterior_predictive_check
from scvi_pp.pl._volcano import volcano

__all__ = ["abundance", "history", "loadings", "posterior_predictive_check", "volcano"]
