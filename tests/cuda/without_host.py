"""What would make a CUDA device wait for the host, or a shape depend on a value, found without such a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# operations that read a number back, whose result is as large as the values say, or that bring numbers of the host
ASKING = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        assert name not in ASKING, f"{name} waits for the device"
        if name in {"index", "index_put", "index_put_"}:
            types_of_index = {index.dtype for index in args[1] if index is not None}
            assert not types_of_index & {torch.bool, torch.uint8}, f"{name} takes a mask"
        return function(*args, **(kwargs or {}))


@contextmanager
def asks_nothing_of_the_host() -> Iterator[None]:
    """Fail where the block runs such an operation, forward or backward."""
    with _Watch():
        yield
