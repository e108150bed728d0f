"""Threads that share the work of one training step.

A step is a chain of operations of a tenth of a millisecond to a few. torch's own threads meet after every one of them,
and on a machine that does anything else they then wait far longer than they work; an executor takes as long to wake a
thread as the operation takes. Here a step is cut a few times, into pieces as large as can be; within its piece each
thread runs its operations alone. Between pieces threads watch for the next one a short while before they sleep.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from scvi_pp._backend import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# fewer rows of a minibatch than this are not worth a thread
FEWEST_ROWS = 32
# looks at a signal before sleeping: about a millisecond, most of what a step leaves between two of its pieces
PATIENCE = 100_000
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Crew:
    """`n` threads, the caller among them."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._workers = [_Worker() for _ in range(n - 1)]
        self._waiting: Task | None = None

    def share(self, n_items: int, work: Callable[[slice], None]) -> None:
        """Call `work` with slices that cover `n_items` items, side by side; return when all have returned."""
        bounds = [n_items * part // self.n for part in range(self.n + 1)]
        self._do([partial(work, slice(*part)) for part in zip(bounds, bounds[1:], strict=False) if part[1] > part[0]])

    def each(self, n_items: int, work: Callable[[int], None]) -> None:
        """Call `work` with every number below `n_items`, whichever thread is free; return when all have returned."""
        self._do([partial(work, item) for item in range(n_items)])

    def _do(self, pieces: list[Callable[[], None]]) -> None:
        if not pieces:
            return
        asking = torch.is_inference_mode_enabled()
        task = Task([partial(_without_gradients, piece, asking=asking) for piece in pieces])
        for worker in self._workers:
            worker.give(task)
        task.finish()
        if self._waiting is not None and self._workers:
            self._workers[0].give(self._waiting)
            self._waiting = None

    def later(self, work: Callable[[], T]) -> Callable[[], T]:
        """Have a thread do work for the next step, once it has helped with this one; returns how to get the result."""
        context, results = copy_context(), []
        task = Task([lambda: context.run(lambda: results.append(work()))])
        self._waiting = task

        def result() -> T:
            task.finish()
            return results[0]

        return result

    def close(self) -> None:
        """End the threads."""
        for worker in self._workers:
            worker.give(None)


class Task:
    """Pieces of work that any thread may take, and a place to wait until all are done."""

    def __init__(self, pieces: list[Callable[[], None]]) -> None:
        self._pieces = deque(pieces)
        self._n = len(pieces)
        self._outcomes: list[BaseException | None] = []
        self._done = Signal()

    def help(self) -> None:
        """Do pieces until none is left to take."""
        while self._pieces:
            try:
                piece = self._pieces.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                piece()
                self._outcomes.append(None)
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                self._outcomes.append(error)
            if len(self._outcomes) == self._n:
                self._done.raise_to(1)

    def finish(self) -> None:
        """Help, wait for the others, and raise what went wrong anywhere."""
        self.help()
        self._done.wait_for(1)
        for error in self._outcomes:
            if error is not None:
                raise error


class Signal:
    """A number that one thread raises and another waits for."""

    def __init__(self) -> None:
        self._value = np.zeros(1, np.int64)
        self._bell = threading.Event()

    def raise_to(self, value: int) -> None:
        self._value[0] = value
        self._bell.set()

    def wait_for(self, value: int) -> None:
        if self._value[0] >= value:
            return
        from scvi_pp._backend.kernels.watch import reaches

        while not reaches(self._value, value, PATIENCE):
            self._bell.clear()
            if self._value[0] < value:
                self._bell.wait()


class _Worker:
    """One more thread, that helps with what it is given, in that order."""

    def __init__(self) -> None:
        self._tasks: deque[Task | None] = deque()
        self._n_given = 0
        self._given = Signal()
        threading.Thread(target=self._run, name="scvi_pp", daemon=True).start()

    def give(self, task: Task | None) -> None:
        """A task to help with; None ends the thread."""
        self._tasks.append(task)
        self._n_given += 1
        self._given.raise_to(self._n_given)

    def _run(self) -> None:
        torch.set_num_threads(1)  # torch, and the matrix library below it, count the threads of each thread
        n_taken = 0
        while True:
            n_taken += 1
            self._given.wait_for(n_taken)
            task = self._tasks.popleft()
            if task is None:
                return
            task.help()


ALONE = Crew(1)
_crew: ContextVar[Crew] = ContextVar("crew", default=ALONE)


def crew() -> Crew:
    """The threads of the running block."""
    return _crew.get()


@contextmanager
def working_together(n_rows: int) -> Iterator[None]:
    """Inside the block `crew()` has as many threads as minibatches of `n_rows` rows keep busy, and torch has one."""
    before = torch.get_num_threads()
    worthwhile = n_rows // FEWEST_ROWS if kernels.compiles() else 1  # threads meet by compiled code
    together = Crew(max(1, min(available_threads(), worthwhile)))
    torch.set_num_threads(1)
    token = _crew.set(together)
    try:
        yield
    finally:
        _crew.reset(token)
        together.close()
        torch.set_num_threads(before)


def available_threads() -> int:
    """What torch would use, within the processors and the share of their time that this process may use."""
    affinity = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), affinity, _quota(CPU_QUOTA)))


def _quota(path: Path) -> int:
    """Whole processors that a container may use, by its control group: "200000 100000" are two."""
    try:
        quota, period = path.read_text().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no control group, or no limit: "max 100000"
        return 1 << 16


def _without_gradients(piece: Callable[[], None], *, asking: bool) -> None:
    """Each thread has its own modes of torch: those of the caller are taken over."""
    with torch.inference_mode(asking), torch.no_grad():
        piece()
