"""Counts as compressed rows: all of them packed tightly on the device, and the few of a minibatch as they are used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MANY = 255  # counts from here on, and what is no whole number, lie in a list of their own
BLOCK = 1 << 22  # values packed at a time


class ByColumn(NamedTuple):
    """The places of a minibatch in the order of their columns."""

    starts: Tensor  # int32 (columns + 1,)
    rows: Tensor  # int32 (n_nonzero,)
    order: Tensor  # int32 (n_nonzero,): which place of the rows this is


@dataclass(frozen=True)
class Places:
    """Where the values of compressed rows are."""

    starts: Tensor  # int32 (rows + 1,)
    columns: Tensor  # int32 (n_nonzero,)
    n_columns: int

    @cached_property
    def rows(self) -> Tensor:
        """The row of each value, int64 (n_nonzero,)."""
        lengths = self.starts.diff()
        numbers = torch.arange(len(lengths), device=lengths.device)
        return torch.repeat_interleave(numbers, lengths, output_size=len(self.columns))

    @cached_property
    def by_column(self) -> ByColumn:
        """The same places, column after column."""
        from scvi_pp._backend.kernels.sort_by_column import by_column

        return by_column(self)


@dataclass(frozen=True)
class SparseRows:
    """Rows of counts, the zeros left out."""

    places: Places
    values: Tensor  # float32 (n_nonzero,)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.places.starts) - 1, self.places.n_columns

    @cached_property
    def totals(self) -> Tensor:
        """The sum of each row, (rows,)."""
        return torch.segment_reduce(self.values, "sum", offsets=self.places.starts.long(), initial=0)

    def log1p(self) -> SparseRows:
        """log(1 + x), which leaves zeros alone."""
        return SparseRows(self.places, self.values.log1p())

    def sign(self) -> SparseRows:
        """1 where there are counts."""
        return SparseRows(self.places, self.values.sign())

    def times(self, factor: Tensor) -> SparseRows:
        """Each row multiplied by a number of its own, (rows,)."""
        return SparseRows(self.places, self.values * factor[self.places.rows])

    def rows(self, index: Tensor) -> SparseRows:
        """Some of the rows, in the order asked for by their numbers, (n_rows,)."""
        starts = self.places.starts.long()
        first = starts[index]
        lengths = starts[index + 1] - first
        ends = lengths.cumsum(0)
        place = torch.repeat_interleave(first - ends + lengths, lengths)
        place += torch.arange(len(place), device=index.device)
        new_starts = torch.cat([ends.new_zeros(1), ends]).int()
        return SparseRows(Places(new_starts, self.places.columns[place], self.places.n_columns), self.values[place])

    def dense(self) -> Tensor:
        """(rows, columns)."""
        out = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        out[self.places.rows, self.places.columns] = self.values
        return out

    @staticmethod
    def of(dense: Tensor) -> SparseRows:
        """The same rows, without their zeros."""
        rows, columns = dense.nonzero(as_tuple=True)
        starts = torch.zeros(len(dense) + 1, dtype=torch.int32, device=dense.device)
        starts[1:] = torch.bincount(rows, minlength=len(dense)).cumsum(0)
        return SparseRows(Places(starts, columns.int(), dense.shape[1]), dense[rows, columns])


@dataclass(frozen=True)
class PackedRows:
    """All rows in three bytes a value where counts and columns allow: 16-bit columns, 8-bit counts, a list of the rest.

    Rows start at 64-bit positions: there may be more than 2^31 values.
    """

    starts: Tensor  # int64 (rows + 1,)
    columns: Tensor  # (n_nonzero,): int16 that hold unsigned numbers, or int32
    values: Tensor  # (n_nonzero,): uint8, MANY where the value is in the list; or float32
    large_at: Tensor  # int64 (n_large,), sorted: which values these are
    large: Tensor  # float32 (n_large,)
    n_columns: int

    def columns_at(self, places: Tensor) -> Tensor:
        """The columns of these values, int32, shaped like `places`."""
        columns = self.columns[places].int()
        return columns & 0xFFFF if self.columns.dtype == torch.int16 else columns  # 16 bits without a sign

    def values_at(self, places: Tensor) -> Tensor:
        """These values, float32, shaped like `places`."""
        values = self.values[places].float()
        if not len(self.large):
            return values
        near = torch.searchsorted(self.large_at, places).clamp(max=len(self.large) - 1)
        return torch.where(self.large_at[near] == places, self.large[near], values)

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    def to(self, device: torch.device) -> PackedRows:
        """The same rows on a device."""
        starts, columns, values, large_at, large = (tensor.to(device) for tensor in self._tensors())
        return PackedRows(starts, columns, values, large_at, large, self.n_columns)

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.starts, self.columns, self.values, self.large_at, self.large

    @staticmethod
    def of(matrix: csr_matrix) -> PackedRows:
        """The matrix in host memory, packed a block at a time."""
        columns = matrix.indices.astype(np.uint16 if matrix.shape[1] <= 1 << 16 else np.int32)
        values, large_at, large = _packed(matrix.data)
        return PackedRows(
            torch.tensor(matrix.indptr, dtype=torch.int64),
            torch.from_numpy(columns.view(np.int16) if columns.itemsize == 2 else columns),
            torch.from_numpy(values),
            torch.from_numpy(large_at),
            torch.from_numpy(large),
            matrix.shape[1],
        )


def _packed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes, and where and what the values are that no byte holds; all as float32 if that is many of them."""
    none = np.empty(0, np.int64), np.empty(0, np.float32)
    small = np.empty(len(values), np.uint8)
    places, large = [none[0]], [none[1]]
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        held = np.clip(block, 0, MANY).astype(np.uint8)
        beyond = np.flatnonzero((held != block) | (held == MANY))
        if len(beyond) > len(block) // 8:
            return np.array(values, dtype=np.float32), *none
        held[beyond] = MANY
        small[start : start + BLOCK] = held
        places.append(beyond + start)
        large.append(block[beyond].astype(np.float32))
    return small, np.concatenate(places), np.concatenate(large)
