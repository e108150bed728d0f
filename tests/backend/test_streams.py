"""Rows become minibatches: every row once, never too few for batch norm, in the order asked for."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array

from scvi_pp._backend import kernels, streams
from scvi_pp._backend.crew import crew, working_together
from scvi_pp._backend.fit import fit
from scvi_pp._backend.query import Posterior
from scvi_pp._backend.sparse import PackedRows, SparseRows
from scvi_pp._backend.streams import Cells, Counts, Dense, in_random_order, n_minibatches
from tests.backend import small

BATCH_SIZES = (2, 3, 7, 32, 128, 1000)

needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_device)])
every_crew = pytest.mark.parametrize("n_threads", [1, 2, 3])


def shuffled(rows: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, ...]:
    """One epoch, as `fit` cuts it."""
    return torch.tensor_split(in_random_order(rows), n_minibatches(len(rows), batch_size))


def counts(matrix: csr_matrix) -> Counts:
    (field,) = small.cells((matrix,)).fields
    assert isinstance(field, Counts)
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


def test_every_stretch_of_an_order_has_its_share_of_every_group():
    groups = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    rows = torch.arange(100) + 1000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        orders = [in_random_order(rows, groups) for _ in range(20)]
    for order in orders:
        assert torch.equal(order.sort().values, rows)
        found = torch.stack([torch.bincount(groups[part - 1000], minlength=3) for part in order.split(20)])
        assert ((found - torch.tensor([12, 6, 2])).abs() <= 1).all()
    firsts = torch.stack([order[:20] for order in orders]).flatten()
    assert len(firsts.unique()) > 90  # any cell may come first


@pytest.mark.parametrize("form", ["auto", "analytic"])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("index", [[0], [5, 5, 5], [7, 0, 3, 0], list(range(20)), []], ids=str)
def test_counts_are_served_without_their_zeros_in_the_order_asked_for(density: float, index: list[int], form: str):
    matrix = csr_matrix(random_array((20, 9), density=density, rng=np.random.default_rng(0), dtype=np.float32))
    with kernels.use(form):
        found = counts(matrix).rows(torch.tensor(index, dtype=torch.int64))
    assert isinstance(found, SparseRows)
    assert len(found.values) == sum(matrix[[row]].nnz for row in index)
    assert found.dense().dtype == torch.float32
    np.testing.assert_array_equal(found.dense(), matrix.toarray()[index])


def test_counts_of_rows_may_be_empty():
    matrix = csr_matrix(np.array([[0, 0, 0], [0, 2, 0], [0, 0, 0], [1, 0, 3], [0, 0, 0]], dtype=np.float32))
    index = torch.tensor([4, 3, 2, 1, 0, 3])
    np.testing.assert_array_equal(counts(matrix).rows(index).dense(), matrix.toarray()[index])


def test_the_arrays_of_the_user_are_copied():
    inputs = small.arrays()
    cells = small.cells(inputs)
    before = cells.minibatch(torch.arange(5))
    inputs.counts.data[:] = -1
    inputs.batch[:] = 9
    after = cells.minibatch(torch.arange(5))
    assert torch.equal(before.counts.dense(), after.counts.dense())
    assert torch.equal(before.batch, after.batch)


def test_a_minibatch_has_the_shape_of_the_inputs():
    inputs = small.arrays(n_levels=(2, 3), n_numbers=2)
    rows = torch.tensor([3, 1])
    minibatch = small.cells(inputs).minibatch(rows)
    assert type(minibatch) is type(inputs)
    np.testing.assert_array_equal(minibatch.counts.dense(), inputs.counts.toarray()[rows])
    for name in ("batch", "labels", "categories", "numbers"):
        np.testing.assert_array_equal(getattr(minibatch, name), getattr(inputs, name)[rows])
    assert minibatch.size_factor is None


@pytest.mark.parametrize("block", [1, 7, 60, 1000])
def test_blocks_walk_through_all_rows_in_order(block: int):
    inputs = small.arrays()
    cells = small.cells(inputs)
    places, found = zip(*((where, cell.counts.dense()) for where, cell in cells.blocks(block)), strict=True)
    np.testing.assert_array_equal(torch.cat(found), inputs.counts.toarray())
    assert [where.start for where in places] == list(range(0, 60, block))
    assert places[-1].stop == 60


def test_blocks_of_some_rows_say_where_they_stand_among_those():
    cells = small.cells(small.arrays())
    rows = torch.tensor([40, 2, 17])
    blocks = list(cells.blocks(2, rows))
    assert [where for where, _ in blocks] == [slice(0, 2), slice(2, 3)]
    found = torch.cat([cell.counts.dense() for _, cell in blocks])
    assert torch.equal(found, cells.minibatch(rows).counts.dense())


def test_a_field_that_is_none_is_not_counted():
    class Pair(NamedTuple):
        first: Any
        second: Any

    cells = Cells(Pair(None, np.arange(4.0)), small.CPU)
    assert cells.n_cells == 4
    assert cells.minibatch(torch.tensor([1])) == Pair(None, torch.tensor([1.0]))


def test_dense_rows_keep_their_type():
    assert Dense(torch.arange(5)).rows(torch.tensor([4, 0])).tolist() == [4, 0]


# ---- counts that a device has no room for


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "free_memory", lambda _: 100)


@every_device
@pytest.mark.usefixtures("no_room")
def test_counts_beyond_the_memory_of_a_device_are_sent_a_minibatch_at_a_time(device: str):
    inputs = small.arrays(n_levels=(2, 3), n_numbers=2)
    cells = Cells(inputs, torch.device(device))
    assert cells.come_from_host
    assert cells.index_device == small.CPU
    index = torch.tensor([40, 0, 40, 59])
    minibatch = cells.minibatch(index)
    assert minibatch.counts.device.type == minibatch.batch.device.type == device
    np.testing.assert_array_equal(minibatch.counts.cpu(), inputs.counts.toarray()[index])
    np.testing.assert_array_equal(minibatch.categories.cpu(), inputs.categories[index])


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_counts_go_to_the_device_that_has_room(share: float, monkeypatch: pytest.MonkeyPatch):
    inputs = small.arrays()
    n_bytes = PackedRows.of(inputs.counts).n_bytes
    monkeypatch.setattr(streams, "free_memory", lambda _: share * n_bytes / streams.SHARE_FOR_COUNTS)
    assert small.cells(inputs).come_from_host == (share < 1)


@every_device
def test_a_fit_from_host_memory_is_the_fit_from_the_device(device: str, monkeypatch: pytest.MonkeyPatch):
    inputs, where = small.arrays(), torch.device(device)
    outcomes, latents = [], []
    for room in (None, 100):
        monkeypatch.setattr(streams, "free_memory", lambda _, room=room: room)
        cells, network = Cells(inputs, where), small.network(inputs, dropout_rate=0.0).to(where)
        assert cells.come_from_host == (room is not None)
        outcomes.append(fit(network, cells, small.plan()))
        latents.append(Posterior(network, cells).latent_mean())
    of_device, of_host = (outcome.history["elbo_validation"] for outcome in outcomes)
    np.testing.assert_allclose(of_host, of_device, rtol=1e-3)
    np.testing.assert_allclose(*latents, rtol=1e-2, atol=1e-2)


# ---- minibatches of an epoch: while one is in use, another thread gathers the next


@every_crew
@pytest.mark.parametrize("used", [True, False], ids=["threads share each", "nothing is shared"])
def test_minibatches_are_those_of_their_indices_in_order(n_threads: int, used: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n_threads)
    inputs = small.arrays(n_levels=(2, 3), n_numbers=2, size_factor=True)
    cells = small.cells(inputs)
    indices = [torch.tensor(rows) for rows in ([5, 3], [59, 0, 59], [1], [2, 4, 6, 8], [7], [7], list(range(60)))]
    n_served = 0
    with working_together(10_000):
        assert crew().n == n_threads
        for index, minibatch in zip(indices, cells.minibatches(indices), strict=True):
            if used:
                crew().share(len(index), lambda _: None)
            np.testing.assert_array_equal(minibatch.counts.dense(), inputs.counts.toarray()[index.numpy()])
            for name in ("batch", "labels", "categories", "numbers", "size_factor"):
                np.testing.assert_array_equal(getattr(minibatch, name), getattr(inputs, name)[index.numpy()])
            n_served += 1
    assert n_served == len(indices)


@every_crew
def test_what_a_step_asks_of_counts_is_ready_when_they_are_served(n_threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n_threads)
    cells = small.cells(small.arrays())
    with working_together(10_000):
        for minibatch in cells.minibatches(torch.arange(60).split(13)):
            assert "totals" in vars(minibatch.counts)
            assert "by_column" in vars(minibatch.counts.places)


@every_crew
@pytest.mark.parametrize("failing", [0, 1, 4])
def test_an_error_in_gathering_reaches_who_asked(n_threads: int, failing: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n_threads)
    cells, indices, served = small.cells(small.arrays()), torch.arange(60).split(12), []
    minibatch = cells.minibatch

    def failing_once(index: torch.Tensor) -> Any:
        if index[0] == 12 * failing:
            raise MemoryError("no room for the minibatch")
        return minibatch(index)

    monkeypatch.setattr(cells, "minibatch", failing_once)
    with working_together(10_000), pytest.raises(MemoryError, match="no room"):
        for each in cells.minibatches(indices):
            served.append(each)
            crew().share(12, lambda _: None)
    assert len(served) == failing


def test_the_next_minibatch_is_gathered_by_another_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: 2)
    cells, names = small.cells(small.arrays()), []
    minibatch, gathered = cells.minibatch, threading.Event()

    def named(index: torch.Tensor) -> Any:
        names.append(threading.current_thread().name)
        gathered.set()
        return minibatch(index)

    monkeypatch.setattr(cells, "minibatch", named)
    with working_together(10_000):
        for _ in cells.minibatches(torch.arange(60).split(20)):
            gathered.clear()
            crew().share(20, lambda _: None)
            if len(names) < 3:
                assert gathered.wait(20)
    assert len(names) == 3
    assert names[1:] == ["scvi_pp"] * 2


@every_crew
def test_minibatches_need_not_be_asked_for_to_the_end(n_threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n_threads)
    cells = small.cells(small.arrays())
    with working_together(10_000):
        for _ in range(3):
            for minibatch in cells.minibatches(torch.arange(60).split(12)):
                assert minibatch.counts.shape == (12, 20)
                break
            crew().share(12, lambda _: None)


def test_the_choice_of_kernels_holds_for_what_is_gathered_ahead(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: 2)
    cells, choices = small.cells(small.arrays()), []
    minibatch = cells.minibatch
    monkeypatch.setattr(cells, "minibatch", lambda index: choices.append(kernels.chosen()) or minibatch(index))
    with working_together(10_000), kernels.use("reference"):
        for _ in cells.minibatches(torch.arange(60).split(12)):
            crew().share(12, lambda _: None)
    assert choices == ["reference"] * 5
