"""The places of compressed rows, column after column: by_column(places) -> ByColumn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import runs_compiled
from scvi_pp._backend.kernels.sort_by_column import reference

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import ByColumn, Places


def by_column(places: Places) -> ByColumn:
    """Sort by column, rows in order within each."""
    if runs_compiled(places.columns):
        from scvi_pp._backend.kernels.sort_by_column import cpu

        return cpu.by_column(places)
    return reference.by_column(places)
