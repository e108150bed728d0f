"""A sparse matrix that is made of dense rows, a block at a time, without what is small."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

# entries looked at together, to keep what is temporary small
ENTRIES_AT_ONCE = 1 << 22
# by which the arrays grow when they are full: at most this much of the result is kept free
GROWTH = 1.25


class RowsAbove:
    """Rows of which values below `threshold`, and zeros, are left out.

    The arrays of the matrix grow in place, so that nothing is held twice. `into` are the columns of the matrix to which
    those of the rows go, each once; None: all, in order.
    """

    def __init__(self, threshold: float, n_columns: int, *, into: npt.NDArray[np.intp] | None = None) -> None:
        self.threshold, self.n_columns = np.float32(threshold), n_columns
        self.into = None if into is None else into.astype(np.int32)
        self._values = np.empty(0, dtype=np.float32)
        self._columns = np.empty(0, dtype=np.int32)
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._n = 0

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Take in dense rows, those after the ones before."""
        n = max(1, ENTRIES_AT_ONCE // max(1, rows.shape[1]))
        for start in range(0, len(rows), n):
            block = rows[start : start + n]
            row, column = np.nonzero((block >= self.threshold) & (block != 0))
            place = slice(self._n, self._n + len(column))
            self._make_room_for(place.stop)
            self._values[place] = block[row, column]
            self._columns[place] = column if self.into is None else self.into[column]
            self._lengths.append(np.bincount(row, minlength=len(block)))
            self._n = place.stop

    def matrix(self) -> csr_matrix:
        """All rows as float32 CSR (rows, n_columns), sorted; nothing can be added any more."""
        self._resize(self._n)
        starts = np.concatenate([[0], *self._lengths]).cumsum()
        shape = (len(starts) - 1, self.n_columns)
        matrix = csr_matrix((self._values, self._columns, starts), shape=shape)
        matrix.sort_indices()  # in place, and only if `into` is not in order
        return matrix

    def _make_room_for(self, n: int) -> None:
        if n > len(self._values):
            self._resize(max(n, int(GROWTH * len(self._values))))

    def _resize(self, n: int) -> None:
        for array in (self._values, self._columns):
            array.resize(n, refcheck=False)  # no view of it is ever handed out
