"""Data to try things on: real counts that need no download, and simulations with known truth."""

from __future__ import annotations

from scvi_pp.datasets._pbmc68k import pbmc68k
from scvi_pp.datasets._simulate_multiome import simulate_multiome
from scvi_pp.datasets._simulate_rna import simulate_rna

__all__ = ["pbmc68k", "simulate_multiome", "simulate_rna"]
