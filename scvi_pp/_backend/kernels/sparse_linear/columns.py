"""The linear map of counts column by column, for weights that no cache holds: each is read, or written, once.

`embedding_bag` walks over cells and so reads the weights of a region again for every cell that has it open. Here it is
the sums of the cells, which are few, that are gone over again.
"""

from __future__ import annotations

# shared code: bef550407b83
from typing import TYPE_CHECKING

import torch

from scvi_pp._backend.crew import crew
from scvi_pp._backend.kernels.arithmetic import ZERO, compiled
from scvi_pp._backend.scratch import borrow

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows

# bytes of weights from which this is the faster way
LARGE = 1 << 23


def product(x: SparseRows, table: Tensor) -> Tensor:
    """x (cells, n_in) times table (n_in, n_out)."""
    starts, rows, order = x.places.by_column
    sums: dict[int, Tensor] = {}

    def some(columns: slice) -> None:
        out = torch.zeros(x.shape[0], table.shape[1])
        bounds = starts[columns.start : columns.stop + 1].numpy()
        add_columns(bounds, rows.numpy(), order.numpy(), x.values.numpy(), table[columns].numpy(), out.numpy())
        sums[columns.start] = out

    crew().share(x.shape[1], some)
    first, *others = (sums[start] for start in sorted(sums))
    for other in others:
        first += other
    return first


def gradient(x: SparseRows, outer: Tensor) -> Tensor:
    """x' (n_in, cells) times outer (cells, n_out): that of the table."""
    starts, rows, order = x.places.by_column
    out = borrow(x.shape[1], outer.shape[1])

    def some(columns: slice) -> None:
        bounds = starts[columns.start : columns.stop + 1].numpy()
        sum_rows(bounds, rows.numpy(), order.numpy(), x.values.numpy(), outer.numpy(), out[columns].numpy())

    crew().share(x.shape[1], some)
    return out


@compiled
def add_columns(starts, rows, order, x, table, out):  # type: ignore[no-untyped-def]
    """Add the weights of each column to the sums of the cells that have it."""
    for j in range(table.shape[0]):
        weights = table[j]
        for k in range(starts[j], starts[j + 1]):
            factor, sums = x[order[k]], out[rows[k]]
            for d in range(weights.shape[0]):
                sums[d] += factor * weights[d]


@compiled
def sum_rows(starts, rows, order, x, outer, out):  # type: ignore[no-untyped-def]
    """To each column the sum over the cells that have it."""
    for j in range(out.shape[0]):
        sums = out[j]
        sums[:] = ZERO
        for k in range(starts[j], starts[j + 1]):
            factor, values = x[order[k]], outer[rows[k]]
            for d in range(sums.shape[0]):
                sums[d] += factor * values[d]
