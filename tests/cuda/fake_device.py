"""A CUDA device that is none: tensors with its name and shapes, and without values, on any machine.

Code that runs there takes the branches of a CUDA device. Two devices in one operation are an error, and so is a value that
is read: there is none. A copy to the host that is asked for, `cpu`, is allowed, and so is a number without dimensions from
the host. Random draws need no stand-in, since only their shapes are drawn.

A CPU build of torch has fake tensors (`torch._subclasses.fake_tensor`) of any device, but no code for a CUDA device behind
them. What it would call, and what takes its place here:

- Recording gradients, and taking an index, ask the device a tensor names for its guard, which ends the process or raises.
  Below Python a tensor therefore names the meta device, whose guard does nothing. What torch makes below Python for such a
  tensor, as in `one_hot`, is then of the meta device, and `_Device` names the fake one again.
- Random streams, free memory and CUDA graphs need the driver: the stream is that of the CPU, all memory is free, and steps
  are taken one by one.
- `Module.to` gives up on fake tensors: `moved` puts parameters and buffers, and nothing else, on the device by itself.
- The fused Adam has no form for fake tensors: that all of its tensors are on the device is asserted, and nothing moves.
- `numpy` has nothing to give: it gives ones.

Triton needs a real device. The likelihoods run in plain operations here, as they do where Triton does not work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from scvi_pp._backend import fit, graph, kernels, query, streams
from scvi_pp._backend.device import private_random

DEVICE, META = torch.device("cuda", 0), torch.device("meta")


class _Device(FakeTensorMode):
    """Fake tensors, of which those that torch makes below Python are of the fake device too."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == META:
            kwargs = {**kwargs, "device": DEVICE}
        if function.overloadpacket is torch.ops.aten._fused_adam_:
            return _assert_one_device(args, kwargs)
        return super().__torch_dispatch__(function, types, args, kwargs)


def _assert_one_device(*arguments: Any) -> None:
    devices = {leaf.device for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)}
    assert devices == {DEVICE}, f"Adam has tensors of {devices}"


@contextmanager
def fake_device() -> Iterator[None]:
    """The block runs with `DEVICE`, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch, _Device(allow_non_fake_inputs=True):
        make = Tensor._make_subclass

        def without_guard(*args: Any, dispatch_device: bool = False, **kwargs: Any) -> Any:
            return make(*args, **kwargs)

        patch.setattr(Tensor, "_make_subclass", staticmethod(without_guard))
        patch.setattr(FakeTensor, "numpy", _ones, raising=False)
        patch.setattr(streams, "free_memory", lambda device: None)
        patch.setattr(graph, "CudaRecorder", lambda device: None)
        for module in (fit, query):
            patch.setattr(module, "private_random", lambda _, seed: private_random(torch.device("cpu"), seed))
        with kernels.use("analytic"):
            yield


def _ones(tensor: Tensor) -> np.ndarray:
    assert tensor.device.type == "cpu", "numpy of a tensor that is not on the host"
    return np.ones(tensor.shape, dtype=str(tensor.dtype).removeprefix("torch."))


def moved(network: nn.Module) -> Any:
    """The network with its parameters and buffers on the device, as `to` moves it."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_there(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _there(buffer)
    return network


def _there(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)
