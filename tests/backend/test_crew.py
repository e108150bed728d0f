"""Threads that share a step: every piece is done once, errors come back, and nothing waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from scvi_pp._backend import crew as crews
from scvi_pp._backend import kernels
from scvi_pp._backend.crew import Crew, crew
from tests.backend.patience import LONG_ENOUGH, in_time

N_THREADS = (1, 2, 3, 4)

every_crew = pytest.mark.parametrize("n", N_THREADS)
with_workers = pytest.mark.parametrize("n", N_THREADS[1:])
patience = pytest.mark.parametrize("looks", [1, crews.PATIENCE], ids=["asleep at once", "on watch"])


@pytest.fixture
def made() -> Iterator[Callable[[int], Crew]]:
    """How to get a crew whose threads end with the test."""
    all_made: list[Crew] = []

    def make(n: int) -> Crew:
        all_made.append(Crew(n))
        return all_made[-1]

    yield make
    for each in all_made:
        each.close()


def covered(group: Crew, n_items: int) -> list[int]:
    """The items of all slices that `share` asks for."""
    slices: list[slice] = []
    in_time(lambda: group.share(n_items, slices.append))
    return [item for part in slices for item in range(n_items)[part]]


# ---- every piece once


@every_crew
def test_every_item_is_worked_on_once(n: int, made: Callable[[int], Crew]):
    group = made(n)
    for n_items in (*range(10), 100, 1001):
        assert sorted(covered(group, n_items)) == list(range(n_items))


@every_crew
def test_every_number_is_called_once(n: int, made: Callable[[int], Crew]):
    group = made(n)
    for n_items in (*range(10), 101):
        called: list[int] = []
        in_time(lambda n_items=n_items, called=called: group.each(n_items, called.append))
        assert sorted(called) == list(range(n_items))


@every_crew
def test_shares_are_one_for_each_thread_and_differ_by_one_item_at_most(n: int, made: Callable[[int], Crew]):
    group, sizes = made(n), []
    in_time(lambda: group.share(17, lambda part: sizes.append(part.stop - part.start)))
    assert len(sizes) == n
    assert max(sizes) - min(sizes) <= 1


@every_crew
def test_all_threads_work_at_the_same_time(n: int, made: Callable[[int], Crew]):
    group, meeting = made(n), threading.Barrier(n, timeout=LONG_ENOUGH)
    in_time(lambda: group.share(n, lambda _: meeting.wait()))
    in_time(lambda: group.each(n, lambda _: meeting.wait()))


@with_workers
def test_a_long_piece_holds_up_no_other(n: int, made: Callable[[int], Crew]):
    group, done, others = made(n), [], threading.Event()

    def work(number: int) -> None:
        if number == 0:
            assert others.wait(LONG_ENOUGH)
        done.append(number)
        if len(done) == 19:
            others.set()

    in_time(lambda: group.each(20, work))
    assert done[-1] == 0
    assert sorted(done) == list(range(20))


@patience
@with_workers
def test_many_shares_one_after_the_other_lose_nothing(
    n: int, looks: int, made: Callable[[int], Crew], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crews, "PATIENCE", looks)
    group, total = made(n), torch.zeros(n, dtype=torch.int64)

    def rounds() -> None:
        for _ in range(100):
            group.share(n, lambda part: total[part].add_(1))

    in_time(rounds)
    assert total.tolist() == [100] * n


@patience
def test_a_worker_that_has_slept_answers(looks: int, made: Callable[[int], Crew], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crews, "PATIENCE", looks)
    group = made(2)
    covered(group, 2)
    time.sleep(1.0)
    meeting = threading.Barrier(2, timeout=LONG_ENOUGH)
    in_time(lambda: group.share(2, lambda _: meeting.wait()))


@patience
def test_the_caller_waits_for_the_slowest(looks: int, made: Callable[[int], Crew], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crews, "PATIENCE", looks)
    group, meeting, finished = made(2), threading.Barrier(2, timeout=LONG_ENOUGH), []

    def work(part: slice) -> None:
        meeting.wait()
        if threading.current_thread().name == "scvi_pp":
            time.sleep(0.2)
        finished.append(part.start)

    in_time(lambda: group.share(2, work))
    assert sorted(finished) == [0, 1]


@every_crew
def test_work_that_shares_its_own_work_is_done(n: int, made: Callable[[int], Crew]):
    """As blocks of cells do, whose encoder shares its rows."""
    group, done = made(n), []

    def work() -> None:
        token = crews._crew.set(group)
        group.each(6, lambda number: crew().share(5, lambda part: done.append((number, part.stop - part.start))))
        crews._crew.reset(token)

    in_time(work)
    for number in range(6):
        assert sum(size for which, size in done if which == number) == 5


# ---- errors


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@every_crew
def test_an_error_of_any_thread_is_raised_when_all_have_finished(
    n: int, kind: type[BaseException], made: Callable[[int], Crew]
):
    group = made(n)
    for which in range(n):
        finished: list[int] = []

        def work(part: slice, which: int = which, finished: list[int] = finished) -> None:
            if part.start == which:
                raise kind(f"in part {which}")
            time.sleep(0.02)
            finished.append(part.start)

        with pytest.raises(kind, match=f"in part {which}"):
            in_time(lambda work=work: group.share(n, work))
        assert sorted(finished) == [part for part in range(n) if part != which]
    assert sorted(covered(group, 7)) == list(range(7))  # and the crew goes on


@every_crew
def test_errors_in_all_threads_are_one_error(n: int, made: Callable[[int], Crew]):
    group = made(n)
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: group.share(n, lambda _: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: group.each(3 * n, lambda _: 1 / 0))
    assert sorted(covered(group, 7)) == list(range(7))


# ---- what is done for later


@pytest.mark.parametrize("n_shares", [0, 1, 3])
@every_crew
def test_what_was_given_for_later_gives_its_result(n: int, n_shares: int, made: Callable[[int], Crew]):
    group = made(n)
    result = group.later(lambda: 42)
    for _ in range(n_shares):
        covered(group, 5)
    assert in_time(result) == 42
    assert in_time(result) == 42


@pytest.mark.parametrize("n_shares", [0, 1, 3])
@every_crew
def test_what_was_given_for_later_gives_its_error(n: int, n_shares: int, made: Callable[[int], Crew]):
    group = made(n)
    result = group.later(lambda: 1 / 0)
    for _ in range(n_shares):
        assert sorted(covered(group, 5)) == list(range(5))
    with pytest.raises(ZeroDivisionError):
        in_time(result)
    assert sorted(covered(group, 5)) == list(range(5))


@with_workers
def test_another_thread_does_it_once_the_share_is_done(n: int, made: Callable[[int], Crew]):
    group, order, done = made(n), [], threading.Event()

    def later() -> str:
        order.append("later")
        done.set()
        return threading.current_thread().name

    result = group.later(later)
    in_time(lambda: group.share(n, lambda _: order.append("share")))
    assert done.wait(LONG_ENOUGH)  # nobody has asked for it
    assert in_time(result) == "scvi_pp"
    assert order == ["share"] * n + ["later"]


def test_alone_it_is_done_when_it_is_asked_for(made: Callable[[int], Crew]):
    group, done = made(1), []
    result = group.later(lambda: done.append(threading.current_thread()))
    group.share(3, lambda _: None)
    assert not done
    result()
    assert done == [threading.current_thread()]


@every_crew
def test_it_is_done_once_and_with_the_choices_of_who_gave_it(n: int, made: Callable[[int], Crew]):
    group, choices = made(n), []
    with kernels.use("reference"):
        result = group.later(lambda: choices.append(kernels.chosen()))
    covered(group, 2)
    in_time(result)
    covered(group, 2)
    in_time(result)
    assert choices == ["reference"]


@every_crew
def test_two_given_one_after_the_other_both_give_their_results(n: int, made: Callable[[int], Crew]):
    group = made(n)
    first, second = group.later(lambda: 1), group.later(lambda: 2)
    covered(group, 2)
    assert (in_time(second), in_time(first)) == (2, 1)


@every_crew
def test_a_share_that_fails_does_not_lose_it(n: int, made: Callable[[int], Crew]):
    group = made(n)
    result = group.later(lambda: 42)
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: group.share(n, lambda _: 1 / 0))
    assert in_time(result) == 42


# ---- the modes of torch


@pytest.mark.parametrize("asking", [False, True], ids=["training", "inference"])
@every_crew
def test_pieces_record_no_gradients_and_have_the_inference_mode_of_the_caller(
    n: int, asking: bool, made: Callable[[int], Crew]
):
    group, meeting, modes = made(n), threading.Barrier(n, timeout=LONG_ENOUGH), []

    def look(_: Any) -> None:
        meeting.wait()
        leaf = torch.ones(1)
        modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), leaf.is_inference()))

    def asked() -> tuple[bool, bool]:
        with torch.inference_mode(asking):
            group.share(n, look)
            group.each(n, look)
            return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    assert in_time(asked) == (not asking, asking)  # the caller keeps its own
    assert modes == [(False, asking, asking)] * 2 * n


@with_workers
def test_each_thread_has_one_thread_of_torch(n: int, made: Callable[[int], Crew]):
    group, meeting, counts = made(n), threading.Barrier(n, timeout=LONG_ENOUGH), []

    def look(_: Any) -> None:
        meeting.wait()
        if threading.current_thread().name == "scvi_pp":
            counts.append(torch.get_num_threads())

    in_time(lambda: group.share(n, look))
    assert counts == [1] * (n - 1)
