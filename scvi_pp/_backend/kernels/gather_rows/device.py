"""The rows of a minibatch as a dense tile, on any device, without a word to the host.

Every shape follows from the number of rows asked for and from the longest row there is, both known beforehand; nothing
waits for the device to say how many values there are. So a CUDA graph can hold it, and a queue of steps never stalls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import PackedRows


def tile(packed: PackedRows, index: Tensor, longest: int) -> Tensor:
    """The rows of `index`, int64 (rows,), none with more than `longest` values: float32 (rows, columns)."""
    n_values = len(packed.values)
    steps = torch.arange(min(longest, n_values), device=index.device)
    places = packed.starts[index][:, None] + steps  # (rows, longest)
    held = places < packed.starts[index + 1][:, None]
    places = places.clamp(max=n_values - 1)  # what lies beyond the last row of all is read too, though not kept
    columns = torch.where(held, packed.columns_at(places).long(), packed.n_columns)
    out = torch.zeros(len(index), packed.n_columns + 1, device=index.device)  # a spare column for what is not held
    return out.scatter_(1, columns, packed.values_at(places))[:, :-1].contiguous()
