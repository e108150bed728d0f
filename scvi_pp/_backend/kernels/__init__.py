"""Likelihoods whose speed decides the speed of training: one folder each, with its plain specification beside it.

`use` chooses for the running block: "auto" takes the fastest form that works, "reference" the specification itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Choice = Literal["auto", "reference"]
_choice: ContextVar[Choice] = ContextVar("kernels", default="auto")


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Run the block with the given form of every kernel."""
    token = _choice.set(choice)
    try:
        yield
    finally:
        _choice.reset(token)


def chosen() -> Choice:
    """The form of the kernels in force."""
    return _choice.get()
