"""The rows of a minibatch as machine code: one pass over its values."""

from __future__ import annotations

# shared code: bef550407b83
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvi_pp._backend.kernels.arithmetic import compiled, inlined
from scvi_pp._backend.sparse import MANY, Places, SparseRows

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import PackedRows


def gather(packed: PackedRows, index: Tensor) -> SparseRows:
    """Unpack the rows of `index`, int64 (rows,)."""
    starts = torch.empty(len(index) + 1, dtype=torch.int32)
    n = measure(packed.starts.numpy(), index.numpy(), starts.numpy())
    columns, values = torch.empty(n, dtype=torch.int32), torch.empty(n, dtype=torch.float32)
    stored = packed.columns.numpy()
    unpack(
        packed.starts.numpy(),
        stored.view(np.uint16) if stored.itemsize == 2 else stored,
        packed.values.numpy(),
        MANY,
        packed.large_at.numpy(),
        packed.large.numpy(),
        index.numpy(),
        columns.numpy(),
        values.numpy(),
    )
    return SparseRows(Places(starts, columns, packed.n_columns), values)


@compiled
def measure(starts, index, to_starts):  # type: ignore[no-untyped-def]
    """Fill where each row of `index` will start; the number of values."""
    to_starts[0] = 0
    for i in range(index.shape[0]):
        to_starts[i + 1] = to_starts[i] + (starts[index[i] + 1] - starts[index[i]])
    return to_starts[index.shape[0]]


@compiled
def unpack(starts, columns, values, many, large_at, large, index, to_columns, to_values):  # type: ignore[no-untyped-def]
    """Copy the rows of `index` one after the other."""
    k = 0
    for i in index:
        for place in range(starts[i], starts[i + 1]):
            to_columns[k] = columns[place]
            to_values[k] = values[place]
            if large.shape[0] > 0 and values[place] == many:
                to_values[k] = large[position(large_at, place)]
            k += 1


@inlined
def position(ordered, wanted):  # type: ignore[no-untyped-def]
    """Where a number is among ordered ones; numpy's own search takes a second to compile."""
    low, high = 0, ordered.shape[0]
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low
