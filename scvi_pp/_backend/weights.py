"""Networks to plain arrays and back; the only way weights enter or leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scvi_pp._errors import ModelRecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from torch import nn


def to_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter and buffer by name, on the host."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def rebuild(build: Callable[[], nn.Module], arrays: Mapping[str, np.ndarray]) -> nn.Module:
    """The network that `build` describes, holding these weights; names, shapes and types must be exactly its own.

    Built without memory or random numbers first, so that nothing is allocated for what is then refused.
    """
    with torch.device("meta"):
        network = build()
    own = network.state_dict()
    if own.keys() != arrays.keys():
        odd = sorted(own.keys() ^ arrays.keys())
        msg = f"the stored weights are not those of this network: {len(odd)} names differ, such as {odd[0]!r}"
        raise ModelRecordError(msg)
    # copies: stored arrays may be read-only views of the file's bytes
    tensors = {name: torch.tensor(arrays[name]) for name in own}
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
            found, needed = tensors[name], tensor
            msg = (
                f"the stored weight {name!r} is {tuple(found.shape)} {found.dtype}, "
                f"the network needs {tuple(needed.shape)} {needed.dtype}"
            )
            raise ModelRecordError(msg)
    network.to_empty(device="cpu")  # each parameter in the layout that its layer wants
    network.load_state_dict(tensors)
    return network


def snapshot(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer, where they live."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def remember(network: nn.Module, kept: dict[str, torch.Tensor]) -> None:
    """The same into a copy that was made before."""
    for name, tensor in network.state_dict().items():
        kept[name].copy_(tensor)
