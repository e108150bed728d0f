from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from scvi_pp._backend import rows_above
from scvi_pp._backend.rows_above import RowsAbove


def dense(n: int = 50, width: int = 12, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(size=(n, width)).astype(np.float32)
    values[::7] = 0
    return values


def added(values: np.ndarray, threshold: float, n_columns: int, sizes: tuple[int, ...], into=None) -> sp.csr_matrix:
    rows = RowsAbove(threshold, n_columns, into=into)
    for block in np.split(values, np.cumsum(sizes)[:-1]):
        rows.add(block)
    return rows.matrix()


@pytest.mark.parametrize("sizes", [(50,), (1, 49), (20, 0, 30), (10,) * 5], ids=str)
@pytest.mark.parametrize("threshold", [0, 0.25, 0.999, 2])
@pytest.mark.parametrize("entries", [1, 100, 10_000])
def test_what_is_not_below_the_threshold_is_kept(sizes: tuple, threshold: float, entries: int, monkeypatch):
    monkeypatch.setattr(rows_above, "ENTRIES_AT_ONCE", entries)
    values = dense()
    found = added(values, threshold, 12, sizes)
    assert (type(found), found.dtype, found.shape) == (sp.csr_matrix, np.float32, values.shape)
    assert found.has_canonical_format
    assert (found.data != 0).all()
    np.testing.assert_array_equal(found.toarray(), np.where(values >= np.float32(threshold), values, 0))


def test_the_threshold_itself_is_kept_as_float32_knows_it():
    values = np.array([[0.1, np.nextafter(np.float32(0.1), np.float32(0))]], dtype=np.float32)
    assert added(values, 0.1, 2, (1,)).indices.tolist() == [0]


@pytest.mark.parametrize("into", [np.arange(12), np.arange(12)[::-1], np.random.default_rng(0).permutation(40)[:12]])
def test_columns_go_where_they_are_sent(into: np.ndarray):
    values = dense()
    found = added(values, 0.5, 40, (25, 25), into=into)
    expected = np.zeros((50, 40), dtype=np.float32)
    expected[:, into] = np.where(values >= 0.5, values, 0)
    assert found.has_sorted_indices
    np.testing.assert_array_equal(found.toarray(), expected)


def test_no_rows_are_an_empty_matrix():
    assert RowsAbove(0.1, 7).matrix().shape == (0, 7)


def test_nothing_is_held_twice():
    values = dense(4000, 500)
    tracemalloc.start()
    rows = RowsAbove(0.5, 500)
    for start in range(0, 4000, 40):
        rows.add(values[start : start + 40])
    found = rows.matrix()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = found.data.nbytes + found.indices.nbytes + found.indptr.nbytes
    assert peak < 1.35 * result
