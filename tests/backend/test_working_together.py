"""How many threads a block has, and that they end with it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from scvi_pp._backend import crew as crews
from scvi_pp._backend import kernels
from scvi_pp._backend.crew import ALONE, available_threads, crew, working_together
from tests.backend.patience import LONG_ENOUGH


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "available_threads", lambda: 4)


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "scvi_pp"}


def gone(threads: set[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(LONG_ENOUGH)
    return not threads & set(threading.enumerate())


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize("fails", [False, True])
def test_threads_live_in_the_block_alone_and_those_of_torch_come_back(fails: bool):
    others, before = workers(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError if fails else KeyError), working_together(1000):
            inside, n = workers() - others, torch.get_num_threads()
            assert crew().n == 4
            raise ZeroDivisionError if fails else KeyError
        assert (len(inside), n) == (3, 1)
        assert gone(inside)
        assert crew() is ALONE
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize(("n_rows", "n_threads"), [(1, 1), (31, 1), (63, 1), (64, 2), (128, 4), (10_000, 4)])
def test_small_minibatches_keep_fewer_threads(n_rows: int, n_threads: int):
    with working_together(n_rows):
        assert crew().n == n_threads


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize("form", ["analytic", "reference"])
def test_without_compiled_code_there_is_one_thread(form: str):
    others = workers()
    with kernels.use(form), working_together(10_000):
        assert crew().n == 1
        assert workers() <= others


@pytest.mark.usefixtures("four_processors")
def test_blocks_of_two_threads_of_the_user_do_not_meet():
    meeting, found = threading.Barrier(2, timeout=LONG_ENOUGH), []

    def fit() -> None:
        with working_together(64):
            meeting.wait()
            for _ in range(20):
                items: list[int] = []
                crew().share(9, lambda part, items=items: items.extend(range(9)[part]))
                found.append(sorted(items))

    threads = [threading.Thread(target=fit, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert gone(set(threads))
    assert found == [list(range(9))] * 40


@pytest.mark.parametrize(
    ("quota", "n"),
    [
        (None, 6),
        ("max 100000\n", 6),
        ("200000 100000\n", 2),
        ("250000 100000", 2),
        ("1000 100000", 1),
        ("1600000 100000", 6),
        ("", 6),
        ("many 100000", 6),
    ],
)
def test_a_container_has_the_threads_of_its_quota(quota: str | None, n: int, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(crews, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert available_threads() == n


def test_no_more_threads_than_torch_would_use_or_than_processors_are_allowed(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(crews, "CPU_QUOTA", tmp_path / "none")
    for n_torch, n_allowed in ((2, 6), (6, 2), (1, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_torch: n)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=n_allowed: set(range(n)), raising=False)
        assert available_threads() == min(n_torch, n_allowed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_threads() == 3
