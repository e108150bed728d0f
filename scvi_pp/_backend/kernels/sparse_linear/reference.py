"""The linear map of counts, through dense counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def linear(x: SparseRows, weight: Tensor, bias: Tensor) -> Tensor:
    """x (cells, n_in), weight (n_out, n_in), bias (n_out,)."""
    return F.linear(x.dense().to(weight.dtype), weight, bias)
