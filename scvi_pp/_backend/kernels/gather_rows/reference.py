"""The rows of a minibatch in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scvi_pp._backend.sparse import Places, SparseRows

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import PackedRows


def gather(packed: PackedRows, index: Tensor) -> SparseRows:
    """Unpack the rows of `index`, int64 (rows,)."""
    first = packed.starts[index]
    lengths = packed.starts[index + 1] - first
    starts = torch.zeros(len(index) + 1, dtype=torch.int64, device=index.device)
    starts[1:] = lengths.cumsum(0)
    place = torch.repeat_interleave(first - starts[:-1], lengths)
    place += torch.arange(len(place), device=index.device)
    return SparseRows(Places(starts.int(), packed.columns_at(place), packed.n_columns), packed.values_at(place))
