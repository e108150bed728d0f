"""The linear map of counts as sums of rows of the weight, one row for each count; its gradient likewise.

Forward each cell sums the weights of the genes it has; backward each gene sums the output gradients of the cells that
have it. Both are what `embedding_bag` does, and neither touches a gene that no cell of the minibatch has. Weights that
no cache holds are gone through column by column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from scvi_pp._backend.crew import crew
from scvi_pp._backend.kernels.sparse_linear import columns

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def linear(x: SparseRows, weight: Tensor, bias: Tensor) -> Tensor:
    """x (cells, n_in), weight (n_out, n_in), bias (n_out,)."""
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: SparseRows, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.x = x
        table = weight.detach().t().contiguous()  # (n_in, n_out), as it lies in memory
        ctx.by_columns = table.nbytes >= columns.LARGE and table.dtype == torch.float32
        if ctx.by_columns:
            return columns.product(x, table).add_(bias)
        return sums_of_rows(x.places.starts, x.places.columns, x.values.to(weight.dtype), table) + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        _, needs_weight, needs_bias = ctx.needs_input_grad
        to_weight = None
        if needs_weight and ctx.by_columns:
            to_weight = columns.gradient(ctx.x, outer.contiguous()).t()
        elif needs_weight:
            starts, rows, order = ctx.x.places.by_column
            values = ctx.x.values[order].to(outer.dtype)
            to_weight = sums_of_rows(starts, rows, values, outer.contiguous()).t()
        return None, to_weight, outer.sum(0) if needs_bias else None


def sums_of_rows(starts: Tensor, index: Tensor, factors: Tensor, table: Tensor) -> Tensor:
    """Row i is the sum of table[index[k]] * factors[k] over k from starts[i] to starts[i + 1]."""
    n = len(starts) - 1
    out = torch.empty(n, table.shape[1], dtype=table.dtype)

    def some(rows: slice) -> None:
        first, last = int(starts[rows.start]), int(starts[rows.stop])
        bags = starts[rows] - first
        index_here, factors_here = index[first:last], factors[first:last]
        out[rows] = F.embedding_bag(index_here, table, bags, mode="sum", per_sample_weights=factors_here)

    crew().share(n, some)
    return out
