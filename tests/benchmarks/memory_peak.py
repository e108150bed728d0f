"""The peak of resident memory during a block, above what the process held before it (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path
from types import TracebackType

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 1e6


class PeakMemory:
    """`with PeakMemory() as memory: ...`, then `memory.megabytes`.

    The kernel keeps the high-water mark, so no peak is too short to be seen, and it can be set back to the present.
    Where it may not be, an earlier and higher peak counts too: the figure is then an upper bound.
    """

    megabytes: float = float("nan")

    def __enter__(self) -> PeakMemory:
        give_back_freed_memory()
        with contextlib.suppress(OSError):
            RESET.write_text("5")  # "reset the peak resident set size", proc_pid_clear_refs(5)
        self._held = kilobytes("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.megabytes = (kilobytes("VmHWM") - self._held) * 1024 / MEGABYTE


def give_back_freed_memory() -> None:
    """Or the block could use, unseen, what was freed before it and is still ours."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # malloc_trim is glibc's
        ctypes.CDLL(None).malloc_trim(0)


def kilobytes(name: str) -> int:
    """A line of this process's status: `VmRSS`, resident now, or `VmHWM`, its high-water mark."""
    if not STATUS.exists():
        raise SystemExit("Peak memory is read from /proc/self/status: this section needs Linux.")
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise SystemExit(f"{STATUS} has no {name}: this section cannot run here.")
