"""How rows become minibatches.

Everything a model reads is put on the device once; counts stay sparse there, and a minibatch is gathered by row. Counts
that the device has no room for stay packed in host memory, and each minibatch is sent while the one before is in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from scvi_pp._backend.crew import crew
from scvi_pp._backend.device import free_memory
from scvi_pp._backend.kernels.gather_rows import gather
from scvi_pp._backend.kernels.gather_rows.device import tile
from scvi_pp._backend.sparse import PackedRows, Places, SparseRows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


T = TypeVar("T", bound=tuple[Any, ...])

# batch normalisation takes its statistics over the minibatch: one cell has none
SMALLEST_BATCH = 2
# of the free memory of a device; the rest is for the network and the minibatch in use
SHARE_FOR_COUNTS = 0.6


class Rows(Protocol):
    """An array that can be asked for some of its rows."""

    def rows(self, index: Tensor) -> Tensor | SparseRows: ...


@dataclass(frozen=True)
class Dense:
    """A plain array on the device."""

    values: Tensor

    def rows(self, index: Tensor) -> Tensor:
        """The rows, in the order asked for."""
        return self.values[index]


@dataclass(frozen=True)
class Counts:
    """Packed counts on the device: compressed rows on the CPU, whose kernels leave zeros out, dense ones elsewhere."""

    packed: PackedRows
    longest: int  # values of the longest row

    def rows(self, index: Tensor) -> Tensor | SparseRows:
        """The rows, in the order asked for, float32 (len(index), n_columns)."""
        if index.device.type == "cpu":
            return gather(self.packed, index)
        return tile(self.packed, index, self.longest)


@dataclass(frozen=True)
class HostCounts:
    """Packed counts in host memory, of which the device gets those it is asked about.

    Nothing waits for the device: it fetches from pinned memory when it comes to it, and the host is then busy with the
    next minibatch.
    """

    packed: PackedRows
    device: torch.device

    def rows(self, index: Tensor) -> Tensor:
        """The rows, in the order asked for by an index in host memory, float32 (len(index), n_columns)."""
        rows = gather(self.packed, index)
        starts, columns, values = map(self._send, (rows.places.starts, rows.places.columns, rows.values))
        return SparseRows(Places(starts, columns, rows.places.n_columns), values).dense()

    def _send(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


class Cells:
    """All cells of a data set on one device, served as minibatches shaped like the model's `Inputs`."""

    def __init__(self, arrays: tuple[Any, ...], device: torch.device) -> None:
        self.shape: Any = type(arrays)
        self.device = device
        self.fields: list[Rows | None] = [_place(array, device) for array in arrays]
        self.come_from_host = any(isinstance(field, HostCounts) for field in self.fields)
        # where row numbers are to be: with the counts, or the host would wait for the device to say them
        self.index_device = torch.device("cpu") if self.come_from_host else device
        self.n_columns = sum(array.shape[1] for array in arrays if isinstance(array, csr_matrix))
        self.n_cells = next(array.shape[0] for array in arrays if array is not None)

    def minibatch(self, index: Tensor) -> Any:
        """The named tuple of tensors for these rows."""
        values: list[Any] = [None if field is None else field.rows(index) for field in self.fields]
        return self.shape(*values)

    def field(self, name: str, index: Tensor) -> Any:
        """One part of what the model reads of these rows."""
        part = self.fields[self.shape._fields.index(name)]
        return None if part is None else part.rows(index)

    def minibatches(self, indices: Sequence[Tensor]) -> Iterator[Any]:
        """The minibatches of `indices`; while one is in use, another thread gathers the next."""
        waiting = crew().later(partial(self._prepared, indices[0]))
        for index in indices[1:]:
            current = waiting()
            waiting = crew().later(partial(self._prepared, index))
            yield current
        yield waiting()

    def _prepared(self, index: Tensor) -> Any:
        """A minibatch with what a step will ask of its counts."""
        inputs = self.minibatch(index)
        for field in inputs:
            if isinstance(field, SparseRows):
                _ = field.totals, field.places.by_column
        return inputs

    def blocks(self, batch_size: int, rows: Tensor | None = None) -> Iterator[tuple[slice, Any]]:
        """Every row in order, `batch_size` at a time: where the block stands, and the block."""
        if rows is None:
            rows = torch.arange(self.n_cells, device=self.index_device)
        for start in range(0, len(rows), batch_size):
            where = slice(start, min(start + batch_size, len(rows)))
            yield where, self.minibatch(rows[where])


def in_random_order(rows: Tensor, groups: Tensor | None = None) -> Tensor:
    """Every row once; the same order on every device.

    With the group of each row, in host memory, every stretch of the order has its share of every group.
    """
    order = torch.randperm(len(rows))
    if groups is not None:
        order = order[_spread(groups[order])]
    return rows[order.to(rows.device)]


def _spread(groups: Tensor) -> Tensor:
    """The order in which the members of each group, in their order, lie evenly from the first place to the last."""
    place = torch.empty(len(groups), dtype=torch.float64)
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        place[members] = (torch.arange(len(members)) + torch.rand(len(members), dtype=torch.float64)) / len(members)
    return place.argsort(stable=True)


def n_minibatches(n_rows: int, batch_size: int) -> int:
    """Minibatches per epoch: none larger than `batch_size` unless one would be too small to normalise."""
    return max(1, min(-(-n_rows // batch_size), n_rows // SMALLEST_BATCH))


def _place(array: csr_matrix | np.ndarray | None, device: torch.device) -> Rows | None:
    if array is None:
        return None
    if isinstance(array, np.ndarray):
        return Dense(torch.tensor(array, device=device))
    packed, free = PackedRows.of(array), free_memory(device)
    if free is not None and packed.n_bytes > SHARE_FOR_COUNTS * free:
        return HostCounts(packed, device)
    return Counts(packed.to(device), int(np.diff(array.indptr).max(initial=0)))
