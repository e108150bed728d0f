"""Large gradients in the same memory at every step.

The system hands out large blocks of memory empty, a page at a time at first touch: for a layer of a hundred thousand
regions that takes as long as filling it. A kernel borrows the memory of such a gradient here, and the optimizer gives
it back when it has taken its step.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WORTH_KEEPING = 1 << 20  # bytes; the memory of smaller ones is kept by the C library already


class Scratch:
    """Memory that was borrowed, and memory that was given back."""

    def __init__(self) -> None:
        # shapes by address, and not the memory: what autograd copies and drops is never given back
        self._lent: dict[int, tuple[int, ...]] = {}
        self._free: list[Tensor] = []

    def borrow(self, *shape: int) -> Tensor:
        """Memory of a float32 matrix with anything in it."""
        for place, tensor in enumerate(self._free):
            if tensor.shape == shape:
                del self._free[place]
                break
        else:
            tensor = torch.empty(shape)
        if tensor.nbytes >= WORTH_KEEPING:
            self._lent[tensor.data_ptr()] = shape
        return tensor

    def give_back(self, gradient: Tensor) -> None:
        """Take a gradient that nothing needs any more; what was not borrowed here is left alone."""
        shape = self._lent.pop(gradient.data_ptr(), None)
        if shape is not None and math.prod(shape) == gradient.numel():
            in_a_row = gradient.detach().as_strided((gradient.numel(),), (1,))
            self._free.append(in_a_row.view(shape))


_scratch: ContextVar[Scratch | None] = ContextVar("scratch", default=None)


@contextmanager
def keeping_scratch() -> Iterator[None]:
    """Inside the block memory that is given back is lent again."""
    token = _scratch.set(Scratch())
    try:
        yield
    finally:
        _scratch.reset(token)


def borrow(*shape: int) -> Tensor:
    """Memory of a float32 matrix with anything in it, for a gradient."""
    scratch = _scratch.get()
    return torch.empty(shape) if scratch is None else scratch.borrow(*shape)


def give_back(gradient: Tensor) -> None:
    """A gradient that nothing needs any more."""
    scratch = _scratch.get()
    if scratch is not None:
        scratch.give_back(gradient)
