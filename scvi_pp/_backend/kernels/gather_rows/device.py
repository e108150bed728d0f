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
    columns = torch.where(held, _columns(packed, places), packed.n_columns)
    out = torch.zeros(len(index), packed.n_columns + 1, device=index.device)  # a spare column for what is not held
    return out.scatter_(1, columns, _values(packed, places))[:, :-1].contiguous()


def _columns(packed: PackedRows, places: Tensor) -> Tensor:
    columns = packed.columns[places].long()
    return columns & 0xFFFF if packed.columns.dtype == torch.int16 else columns  # 16 bits without a sign


def _values(packed: PackedRows, places: Tensor) -> Tensor:
    values = packed.values[places].float()
    if not len(packed.large):
        return values
    near = torch.searchsorted(packed.large_at, places).clamp(max=len(packed.large) - 1)
    return torch.where(packed.large_at[near] == places, packed.large[near], values)
