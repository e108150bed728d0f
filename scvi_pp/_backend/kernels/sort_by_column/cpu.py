"""The order of the columns by counting, as machine code."""

from __future__ import annotations

# shared code: bef550407b83
from typing import TYPE_CHECKING

import torch

from scvi_pp._backend.kernels.arithmetic import compiled
from scvi_pp._backend.sparse import ByColumn

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import Places


def by_column(places: Places) -> ByColumn:
    """Sort by column, rows in order within each."""
    starts = torch.empty(places.n_columns + 1, dtype=torch.int32)
    rows, order = torch.empty_like(places.columns), torch.empty_like(places.columns)
    sort(places.starts.numpy(), places.columns.numpy(), starts.numpy(), rows.numpy(), order.numpy())
    return ByColumn(starts, rows, order)


@compiled
def sort(starts, columns, to_starts, to_rows, to_order):  # type: ignore[no-untyped-def]
    """Fill the starts of the columns (n_columns + 1,), and rows and places in their order."""
    to_starts[:] = 0
    for column in columns:
        to_starts[column + 1] += 1
    for column in range(to_starts.shape[0] - 1):
        to_starts[column + 1] += to_starts[column]
    for row in range(starts.shape[0] - 1):
        for k in range(starts[row], starts[row + 1]):
            place = to_starts[columns[k]]
            to_rows[place], to_order[place] = row, k
            to_starts[columns[k]] = place + 1
    for column in range(to_starts.shape[0] - 1, 0, -1):  # each start has moved on to the next one
        to_starts[column] = to_starts[column - 1]
    to_starts[0] = 0
