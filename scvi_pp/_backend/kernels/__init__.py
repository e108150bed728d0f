"""What decides the speed of training: one folder for each kernel, with its plain specification beside it.

Every kernel has up to four forms, and `__init__.py` of its folder chooses:

    reference   as it is defined, in plain torch; automatic differentiation gives the gradients
    analytic    gradients worked out by hand, in plain torch: for every device and type
    cpu         machine code for the CPU, in float32
    cuda        machine code for NVIDIA GPUs

`use` says which for the running block: "auto" takes the fastest that works, "analytic" does without compiled code.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Choice = Literal["auto", "analytic", "reference"]
_choice: ContextVar[Choice] = ContextVar("kernels", default="auto")

# entries of a (cells, genes) matrix, over all passes, from which compiled code earns back the seconds that numba takes
# to compile it once on a machine
WORTH_COMPILING = 60_000_000


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Run the block with the given form of every kernel."""
    token = _choice.set(choice)
    try:
        yield
    finally:
        _choice.reset(token)


@contextmanager
def use_for(n_entries: int) -> Iterator[None]:
    """Run the block without compiled code if that many entries are too few to wait for a compiler."""
    with use("analytic" if chosen() == "auto" and n_entries < WORTH_COMPILING else chosen()):
        yield


def chosen() -> Choice:
    """The form of the kernels in force."""
    return _choice.get()


def compiles() -> bool:
    """Whether compiled code may run."""
    return chosen() == "auto"


def runs_compiled(*tensors: Tensor) -> bool:
    """Whether these are for the machine code of the CPU."""
    return compiles() and all(tensor.device.type == "cpu" and tensor.dtype != torch.float64 for tensor in tensors)
