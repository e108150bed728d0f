"""Rows become minibatches: every row once, never too few for batch norm, sparse as if it were dense."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array

from scvi_pp._backend.streams import Cells, Dense, Sparse, n_minibatches, shuffled
from tests.backend import small

BATCH_SIZES = (2, 3, 7, 32, 128, 1000)


def sparse(matrix: csr_matrix) -> Sparse:
    (field,) = small.cells((matrix,)).fields
    assert isinstance(field, Sparse)
    return field


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_an_epoch_has_every_row_once_and_no_minibatch_of_one_cell(batch_size: int):
    for n in range(2, 301):
        rows = torch.arange(n) * 3 + 1
        minibatches = shuffled(rows, batch_size)
        assert torch.equal(torch.cat(minibatches).sort().values, rows)
        sizes = [len(minibatch) for minibatch in minibatches]
        assert min(sizes) >= 2
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == n_minibatches(n, batch_size)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_minibatches_exceed_the_batch_size_only_to_stay_above_one_cell(batch_size: int):
    for n in range(2, 301):
        n_wanted = -(-n // batch_size)
        assert n_minibatches(n, batch_size) <= n_wanted
        if n_minibatches(n, batch_size) < n_wanted:
            assert n // n_wanted < 2


def test_a_batch_size_of_one_still_gives_two_cells():
    assert {len(minibatch) for minibatch in shuffled(torch.arange(9), 1)} <= {2, 3}


def test_each_epoch_is_shuffled_anew_and_by_the_seed():
    def epochs() -> list[torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return [torch.cat(shuffled(torch.arange(100), 10)) for _ in range(2)]

    first, second = epochs()
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(100))
    assert torch.equal(first, epochs()[0])


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("index", [[0], [5, 5, 5], [7, 0, 3, 0], list(range(20)), []], ids=str)
def test_sparse_rows_are_dense_rows(density: float, index: list[int]):
    matrix = csr_matrix(random_array((20, 9), density=density, rng=np.random.default_rng(0), dtype=np.float32))
    found = sparse(matrix).rows(torch.tensor(index, dtype=torch.int64))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), matrix.toarray()[index])


def test_sparse_rows_may_be_empty():
    matrix = csr_matrix(np.array([[0, 0, 0], [0, 2, 0], [0, 0, 0], [1, 0, 3], [0, 0, 0]], dtype=np.float32))
    index = torch.tensor([4, 3, 2, 1, 0, 3])
    np.testing.assert_array_equal(sparse(matrix).rows(index).numpy(), matrix.toarray()[index])


def test_the_arrays_of_the_user_are_copied():
    inputs = small.arrays()
    cells = small.cells(inputs)
    before = cells.minibatch(torch.arange(5))
    inputs.counts.data[:] = -1
    inputs.batch[:] = 9
    after = cells.minibatch(torch.arange(5))
    assert torch.equal(before.counts, after.counts)
    assert torch.equal(before.batch, after.batch)


def test_a_minibatch_has_the_shape_of_the_inputs():
    inputs = small.arrays(n_levels=(2, 3), n_numbers=2)
    rows = torch.tensor([3, 1])
    minibatch = small.cells(inputs).minibatch(rows)
    assert type(minibatch) is type(inputs)
    np.testing.assert_array_equal(minibatch.counts, inputs.counts.toarray()[rows])
    for name in ("batch", "labels", "categories", "numbers"):
        np.testing.assert_array_equal(getattr(minibatch, name), getattr(inputs, name)[rows])
    assert minibatch.size_factor is None


@pytest.mark.parametrize("block", [1, 7, 60, 1000])
def test_blocks_walk_through_all_rows_in_order(block: int):
    inputs = small.arrays()
    cells = small.cells(inputs)
    places, counts = zip(*((where, cell.counts) for where, cell in cells.blocks(block)), strict=True)
    np.testing.assert_array_equal(torch.cat(counts), inputs.counts.toarray())
    assert [where.start for where in places] == list(range(0, 60, block))
    assert places[-1].stop == 60


def test_blocks_of_some_rows_say_where_they_stand_among_those():
    cells = small.cells(small.arrays())
    rows = torch.tensor([40, 2, 17])
    blocks = list(cells.blocks(2, rows))
    assert [where for where, _ in blocks] == [slice(0, 2), slice(2, 3)]
    found = torch.cat([cell.counts for _, cell in blocks])
    assert torch.equal(found, cells.minibatch(rows).counts)


def test_a_field_that_is_none_is_not_counted():
    class Pair(NamedTuple):
        first: Any
        second: Any

    cells = Cells(Pair(None, np.arange(4.0)), small.CPU)
    assert cells.n_cells == 4
    assert cells.minibatch(torch.tensor([1])) == Pair(None, torch.tensor([1.0]))


def test_dense_rows_keep_their_type():
    assert Dense(torch.arange(5)).rows(torch.tensor([4, 0])).tolist() == [4, 0]
