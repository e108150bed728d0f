"""Networks to plain arrays and back; the only way weights enter or leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scvi_pp._errors import ModelRecordError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import nn


def to_arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter and buffer by name, on the host."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def load(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill the network; names, shapes and types must be exactly its own."""
    own = network.state_dict()
    if own.keys() != arrays.keys():
        odd = sorted(own.keys() ^ arrays.keys())
        msg = f"The stored weights are not those of this network: {len(odd)} names differ, such as {odd[0]!r}."
        raise ModelRecordError(msg)
    for name, tensor in own.items():
        array = arrays[name]
        if tuple(array.shape) != tuple(tensor.shape):
            msg = f"The stored weight {name!r} has shape {tuple(array.shape)}, the network needs {tuple(tensor.shape)}."
            raise ModelRecordError(msg)
    # copies: stored arrays may be read-only views of the file's bytes
    network.load_state_dict({name: torch.tensor(arrays[name]) for name in own})


def snapshot(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer, where they live."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
