"""Preprocessing that neither scanpy nor muon has.

Normalisation, gene selection and neighbours are scanpy's (`sc.pp`); models here read raw counts.
"""

from __future__ import annotations

from scvi_pp.pp._organize_multiome import organize_multiome
from scvi_pp.pp._reads_to_fragments import reads_to_fragments

__all__ = ["organize_multiome", "reads_to_fragments"]
