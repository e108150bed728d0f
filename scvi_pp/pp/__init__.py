"""Preprocessing that neither scanpy nor muon has.

Normalisation, gene selection and neighbours are scanpy's (`sc.pp`); models here read raw counts.
"""

from __future__ import annotations

__all__: list[str] = []
