"""Calls in a process of their own: threads, caches and freed memory of one measurement cannot reach the next."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from typing import Any


def in_fresh_process(module: str, function: str, *arguments: Any) -> Any:
    """What `module.function(*arguments)` returns there. Named, not passed, so that only that process imports it.

    Raises BrokenProcessPool if the process is killed, as it is when memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(call, module, function, arguments).result()


def call(module: str, function: str, arguments: tuple[Any, ...]) -> Any:
    """Import and call."""
    return getattr(import_module(module), function)(*arguments)
