"""The linear map of a layer that reads counts: linear(x, weight, bias) -> (cells, n_out), never through dense counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import chosen
from scvi_pp._backend.kernels.sparse_linear import cpu, reference

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def linear(x: SparseRows, weight: Tensor, bias: Tensor) -> Tensor:
    """x (cells, n_in), weight (n_out, n_in), bias (n_out,)."""
    if chosen() == "reference" or x.values.device.type != "cpu":
        return reference.linear(x, weight, bias)
    return cpu.linear(x, weight, bias)
