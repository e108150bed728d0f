"""What would make a CUDA device wait for the host, or a shape depend on a value, found without such a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ASKING and function._overloadname != "self_int":  # as often for all, which the host knows
            self.notice(f"{name} waits for the device")
        if name in {"index", "index_put", "index_put_"}:
            types_of_index = {index.dtype for index in args[1] if index is not None}
            if types_of_index & {torch.bool, torch.uint8}:
                self.notice(f"{name} takes a mask")
        return function(*args, **(kwargs or {}))

    def notice(self, what: str) -> None:
        self.found.append(what)


class _Refuse(_Watch):
    def notice(self, what: str) -> None:
        raise AssertionError(what)


class _OnlyOnDevice(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, Tensor) or leaf.device.type == "meta", f"{function} has a tensor of the host"
        return result


@contextmanager
def asks_nothing_of_the_host() -> Iterator[None]:
    """Fail where the block runs such an operation, forward or backward."""
    with _Refuse():
        yield


@contextmanager
def noting_what_is_asked() -> Iterator[list[str]]:
    """The operations of the block that are such, in a list."""
    with _Watch() as watch:
        yield watch.found


@contextmanager
def only_on_the_meta_device() -> Iterator[None]:
    """Fail at an operation that also takes or gives a tensor of the host: on a device, a copy that waits."""
    with _OnlyOnDevice():
        yield
