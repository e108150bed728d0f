"""The machine that a measurement was taken on: its name, what is installed, how many threads may run, its clock."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MEASURED = ("scvi_pp", "scvi-tools", "torch", "lightning", "numpy", "scipy", "numba", "anndata", "scanpy")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def processor() -> str:
    """Name of the processor."""
    cpu_facts = Path("/proc/cpuinfo")
    if cpu_facts.exists():
        for line in cpu_facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python and the packages that take part; of this one the commit too, where there is one."""
    found = {"Python": platform.python_version()}
    for name in MEASURED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if commit := commit_of_the_repository():
        found["scvi_pp"] = f"{found.get('scvi_pp', '')} ({commit})".strip()
    return found


def commit_of_the_repository() -> str:
    """`df21a57`, with `+changes` if the package differs from it; empty outside of a clone."""
    describe = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    differ = ["git", "-C", str(REPOSITORY), "status", "--porcelain", "--", "scvi_pp"]
    try:
        commit, changes = (
            subprocess.run(line, capture_output=True, text=True, check=True) for line in (describe, differ)
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def device_name(device: str) -> str:
    """`cpu`, or the name of the GPU."""
    if not device.startswith("cuda"):
        return device
    import torch

    return str(torch.cuda.get_device_name(device))


def announce_threads(n_threads: int) -> None:
    """Tell every numerical library that is loaded from now on, here and in processes started from here."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(n_threads)))


def limit_threads(n_threads: int) -> None:
    """Hold the libraries of this process to so many threads, whatever was announced."""
    import numba
    import torch

    torch.set_num_threads(n_threads)
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))


def seconds_of(call: Callable[[], object], device: str = "cpu") -> float:
    """Wall seconds of a call, to the end of what it set off on the device."""
    gc.collect()  # what setting up left behind is not the call's to clear away
    finish(device)
    started = time.perf_counter()
    call()
    finish(device)
    return time.perf_counter() - started


def finish(device: str) -> None:
    """Wait for the device; the CPU is never ahead of us."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
