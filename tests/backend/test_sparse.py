"""Counts as compressed rows: whatever is packed comes back, and what is asked of sparse rows is what dense ones say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from scipy.sparse import csr_matrix

from scvi_pp._backend import sparse
from scvi_pp._backend.kernels.counts import at_counts, dense, totals
from scvi_pp._backend.kernels.counts import sparse as as_sparse
from scvi_pp._backend.kernels.gather_rows import cpu, reference
from scvi_pp._backend.sparse import MANY, PackedRows, Places, SparseRows

CPU = torch.device("cpu")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

quickly = settings(max_examples=60, deadline=None, database=None)
shapes = st.tuples(st.integers(1, 8), st.integers(1, 12))
# mostly zeros, then small counts, counts around what a byte holds, and what is no count
values = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 254, 255, 256, 1e6, 0.5, -1.5])
matrices = arrays_of.arrays(np.float32, shapes, elements=values)


def csr(matrix: np.ndarray) -> csr_matrix:
    return csr_matrix(matrix)


# ---- packed


@quickly
@given(matrices, st.data())
def test_what_is_packed_comes_back(matrix: np.ndarray, data: st.DataObject):
    packed = PackedRows.of(csr(matrix))
    index = data.draw(st.lists(st.integers(0, len(matrix) - 1), max_size=12))
    for form in (cpu, reference):
        found = form.gather(packed, torch.tensor(index, dtype=torch.int64))
        np.testing.assert_array_equal(found.dense().numpy(), matrix[index])


@quickly
@given(arrays_of.arrays(np.float32, st.integers(0, 60), elements=values), st.integers(1, 9))
def test_packing_a_block_at_a_time_is_packing_at_once(data: np.ndarray, block: int):
    """The list is small beside every block or there is none, so only lists that exist both ways are the same."""
    with pytest.MonkeyPatch.context() as patch:
        whole = sparse._packed(data)
        patch.setattr(sparse, "BLOCK", block)
        in_blocks = sparse._packed(data)
    for small, large_at, large in (whole, in_blocks):
        back = small.astype(np.float32)
        back[large_at] = large
        np.testing.assert_array_equal(back, data)
        assert (np.diff(large_at) > 0).all()
    if whole[0].dtype == in_blocks[0].dtype:
        for ours, theirs in zip(in_blocks, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64", "bool"])
def test_values_of_any_type_are_packed(dtype: str):
    largest = (
        1 if dtype == "bool" else min(16_777_216, int(np.finfo(dtype).max) if dtype[0] == "f" else np.iinfo(dtype).max)
    )
    data = np.array([1] * 30 + [largest], dtype=dtype)
    small, large_at, large = sparse._packed(data)
    assert (small.dtype, large_at.dtype, large.dtype) == (np.uint8, np.int64, np.float32)
    back = small.astype(np.float32)
    back[large_at] = large
    np.testing.assert_array_equal(back, data.astype(np.float32))


@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
def test_a_matrix_of_any_type_is_packed(dtype: str):
    matrix = np.array([[0, 3, 0], [1, 0, 100]], dtype=dtype)
    packed = PackedRows.of(csr(matrix))
    for form in (cpu, reference):
        np.testing.assert_array_equal(form.gather(packed, torch.tensor([1, 0])).dense(), matrix[[1, 0]])


def test_a_byte_holds_what_it_can_and_the_list_holds_the_rest():
    data = np.ones(100, np.float32)
    data[[3, 50, 99]] = MANY, 0.5, -7
    small, large_at, large = sparse._packed(data)
    assert small.dtype == np.uint8
    assert small[[3, 50, 99]].tolist() == [MANY] * 3
    assert large_at.tolist() == [3, 50, 99]
    assert large.tolist() == [MANY, 0.5, -7]


@pytest.mark.parametrize(("n_large", "dtype"), [(12, np.uint8), (13, np.float32)])
def test_a_list_of_more_than_an_eighth_is_no_list(n_large: int, dtype: type):
    data = np.ones(100, np.float32)
    data[:n_large] = 0.5
    small, large_at, _ = sparse._packed(data)
    assert small.dtype == dtype
    assert len(large_at) == (n_large if dtype == np.uint8 else 0)


def test_counts_take_three_bytes_each():
    matrix = csr_matrix(np.random.default_rng(0).poisson(0.5, (200, 300)).astype(np.float32))
    packed = PackedRows.of(matrix)
    n_bytes = sum(part.numel() * part.element_size() for part in (packed.columns, packed.values, packed.large))
    assert n_bytes == 3 * matrix.nnz


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
@pytest.mark.parametrize(("n_columns", "dtype"), [(65_536, torch.int16), (65_537, torch.int32)])
def test_starts_are_64_bit_and_columns_as_narrow_as_they_can_be(n_columns: int, dtype: torch.dtype, index_type: type):
    matrix = csr_matrix((np.ones(2), [0, n_columns - 1], [0, 1, 2]), shape=(2, n_columns))
    matrix.indptr, matrix.indices = matrix.indptr.astype(index_type), matrix.indices.astype(index_type)
    packed = PackedRows.of(matrix)
    assert packed.starts.dtype == packed.large_at.dtype == torch.int64
    assert packed.columns.dtype == dtype
    assert reference.gather(packed, torch.tensor([1])).places.columns.tolist() == [n_columns - 1]


def test_what_is_packed_does_not_follow_the_matrix():
    for value in (3.0, 0.5):  # bytes, and float32
        matrix = csr(np.full((4, 5), value, np.float32))
        packed = PackedRows.of(matrix)
        matrix.data[:] = matrix.indices[:] = matrix.indptr[:] = 0
        np.testing.assert_array_equal(reference.gather(packed, torch.arange(4)).dense(), np.full((4, 5), value))


def test_a_matrix_without_values_is_packed():
    packed = PackedRows.of(csr_matrix((3, 4), dtype=np.float32))
    for form in (cpu, reference):
        assert not form.gather(packed, torch.tensor([0, 2])).dense().any()


# ---- sparse rows


@quickly
@given(matrices)
def test_sparse_rows_are_the_dense_rows(matrix: np.ndarray):
    whole = torch.from_numpy(matrix)
    rows = SparseRows.of(whole)
    assert rows.shape == whole.shape
    assert torch.equal(rows.dense(), whole)
    assert (rows.values != 0).all()
    assert rows.places.starts.dtype == rows.places.columns.dtype == torch.int32
    torch.testing.assert_close(rows.totals, whole.double().sum(1).float())
    np.testing.assert_array_equal(rows.places.rows, matrix.nonzero()[0])
    np.testing.assert_array_equal(rows.places.columns, matrix.nonzero()[1])
    counts = torch.from_numpy(np.abs(matrix))
    assert torch.equal(SparseRows.of(counts).log1p().dense(), counts.log1p())
    assert torch.equal(SparseRows.of(counts).sign().dense(), counts.sign())


def test_totals_of_counts_are_exact_and_do_not_feel_the_other_rows():
    rows = torch.zeros(3, 5)
    rows[0, :2] = 16_777_216
    rows[1, 3] = 1
    assert SparseRows.of(rows).totals.tolist() == [2 * 16_777_216, 1, 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_total_that_is_no_number_stays_in_its_row(value: float):
    rows = torch.ones(4, 3)
    rows[1, 2] = value
    found = SparseRows.of(rows).totals
    assert found[[0, 2, 3]].tolist() == [3, 3, 3]
    assert not torch.isfinite(found[1])


@pytest.mark.parametrize("of", [SparseRows.log1p, SparseRows.sign])
def test_what_is_made_of_values_leaves_places_alone_and_values_as_they_were(of: Callable[[SparseRows], SparseRows]):
    rows = SparseRows.of(torch.tensor([[0.0, 3.0], [1.0, 0.0]]))
    made = of(rows)
    assert made.places is rows.places
    assert rows.values.tolist() == [3, 1]


def test_a_zero_that_is_stored_has_no_sign():
    starts, columns = torch.tensor([0, 2], dtype=torch.int32), torch.tensor([0, 2], dtype=torch.int32)
    rows = SparseRows(Places(starts, columns, 3), torch.tensor([4.0, 0.0]))
    assert rows.sign().dense().tolist() == [[1, 0, 0]]


def test_rows_without_any_value_are_rows():
    rows = SparseRows.of(torch.zeros(3, 4))
    assert rows.shape == (3, 4)
    assert rows.totals.tolist() == [0, 0, 0]
    assert not rows.log1p().dense().any()
    assert not rows.sign().dense().any()
    assert rows.places.by_column.starts.tolist() == [0] * 5


def test_no_rows_are_rows_too():
    rows = SparseRows(Places(torch.zeros(1, dtype=torch.int32), torch.empty(0, dtype=torch.int32), 4), torch.empty(0))
    assert rows.shape == (0, 4)
    assert rows.dense().shape == (0, 4)
    assert len(rows.totals) == 0


@quickly
@given(matrices, st.data())
def test_some_rows_are_those_of_the_dense_rows(matrix: np.ndarray, data: st.DataObject):
    index = data.draw(st.lists(st.integers(0, len(matrix) - 1), max_size=12))
    whole = torch.from_numpy(matrix)
    found = SparseRows.of(whole).rows(torch.tensor(index, dtype=torch.int64))
    assert torch.equal(found.dense(), whole[index])
    assert found.places.starts.dtype == found.places.columns.dtype == torch.int32
    columns, order = found.places.by_column.starts, found.places.by_column.order
    assert columns[-1] == len(order) == len(found.values)


def test_rows_that_are_not_asked_for_leave_no_trace():
    rows = SparseRows.of(torch.tensor([[0.0, 3.0], [torch.inf, torch.nan], [1.0, 0.0]]))
    assert rows.rows(torch.tensor([2, 0])).totals.tolist() == [1, 3]
    assert rows.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 2)


# ---- what kernels make of counts


@quickly
@given(matrices)
def test_counts_say_the_same_whether_they_are_dense_or_sparse(matrix: np.ndarray):
    whole = torch.from_numpy(matrix)
    rows = SparseRows.of(whole)
    assert dense(whole) is whole
    assert as_sparse(rows) is rows
    assert torch.equal(dense(rows), whole)
    assert torch.equal(as_sparse(whole).dense(), whole)
    torch.testing.assert_close(totals(rows), totals(whole))
    for each in (rows, whole):
        (row, column), x = at_counts(each, torch.float64)
        np.testing.assert_array_equal(np.stack([row, column]), matrix.nonzero())
        np.testing.assert_array_equal(x, matrix[matrix != 0])
        assert x.dtype == torch.float64
        assert row.dtype == column.dtype == torch.int64
