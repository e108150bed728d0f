"""How rows become minibatches.

Everything a model reads is put on the device once; counts stay sparse there, and a minibatch is gathered by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy.sparse import csr_matrix

T = TypeVar("T", bound=tuple[Any, ...])

# batch normalisation takes its statistics over the minibatch: one cell has none
SMALLEST_BATCH = 2


class Rows(Protocol):
    """An array that can be asked for some of its rows."""

    def rows(self, index: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Dense:
    """A plain array on the device."""

    values: Tensor

    def rows(self, index: Tensor) -> Tensor:
        """The rows, in the order asked for."""
        return self.values[index]


@dataclass(frozen=True)
class Sparse:
    """Compressed sparse rows on the device."""

    starts: Tensor  # int64, (n_rows + 1,)
    columns: Tensor  # int32, (n_nonzero,)
    values: Tensor  # float32, (n_nonzero,)
    n_columns: int

    def rows(self, index: Tensor) -> Tensor:
        """The rows, in the order asked for, as a dense float32 tensor (len(index), n_columns)."""
        first, last = self.starts[index], self.starts[index + 1]
        lengths = last - first
        ends = lengths.cumsum(0)
        row = torch.repeat_interleave(torch.arange(len(index), device=index.device), lengths)
        entry = torch.arange(len(row), device=index.device) + (first - (ends - lengths))[row]
        out = torch.zeros(len(index) * self.n_columns, dtype=torch.float32, device=index.device)
        out[row * self.n_columns + self.columns[entry]] = self.values[entry]
        return out.view(len(index), self.n_columns)


class Cells:
    """All cells of a data set on one device, served as minibatches shaped like the model's `Inputs`."""

    def __init__(self, arrays: tuple[Any, ...], device: torch.device) -> None:
        self.shape: Any = type(arrays)
        self.device = device
        self.fields: list[Rows | None] = [_place(array, device) for array in arrays]
        self.n_cells = next(array.shape[0] for array in arrays if array is not None)

    def minibatch(self, index: Tensor) -> Any:
        """The named tuple of tensors for these rows."""
        values: list[Any] = [None if field is None else field.rows(index) for field in self.fields]
        return self.shape(*values)

    def blocks(self, batch_size: int, rows: Tensor | None = None) -> Iterator[tuple[slice, Any]]:
        """Every row in order, `batch_size` at a time: where the block stands, and the block."""
        if rows is None:
            rows = torch.arange(self.n_cells, device=self.device)
        for start in range(0, len(rows), batch_size):
            where = slice(start, min(start + batch_size, len(rows)))
            yield where, self.minibatch(rows[where])


def shuffled(rows: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """One epoch: every row once, in random order, in minibatches that differ in size by at most one."""
    order = rows[torch.randperm(len(rows)).to(rows.device)]
    return torch.tensor_split(order, n_minibatches(len(rows), batch_size))


def n_minibatches(n_rows: int, batch_size: int) -> int:
    """Minibatches per epoch: none larger than `batch_size` unless one would be too small to normalise."""
    return max(1, min(-(-n_rows // batch_size), n_rows // SMALLEST_BATCH))


def _place(array: csr_matrix | np.ndarray | None, device: torch.device) -> Rows | None:
    if array is None:
        return None
    if isinstance(array, np.ndarray):
        return Dense(torch.tensor(array, device=device))
    return Sparse(
        torch.tensor(array.indptr, dtype=torch.int64, device=device),
        torch.tensor(array.indices, dtype=torch.int32, device=device),
        torch.tensor(array.data, dtype=torch.float32, device=device),
        array.shape[1],
    )
