"""The order of the columns by a general sort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scvi_pp._backend.sparse import ByColumn

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import Places


def by_column(places: Places) -> ByColumn:
    """Sort by column, rows in order within each."""
    order = torch.argsort(places.columns, stable=True)
    starts = torch.zeros(places.n_columns + 1, dtype=torch.int32, device=order.device)
    starts[1:] = torch.bincount(places.columns, minlength=places.n_columns).cumsum(0)
    return ByColumn(starts, places.rows[order].int(), order.int())
