"""The Poisson distribution with its gradient worked out by hand: x - mu.

sum_g log p = - sum_all mu + sum_nonzero [ x log mu - log x! ]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from scvi_pp._backend.kernels.counts import at_counts

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(counts: Tensor | SparseRows, log_mean: Tensor) -> Tensor:
    """Sum over genes, (cells,)."""
    value: Tensor = _LogLikelihood.apply(counts, log_mean)  # type: ignore[no-untyped-call]
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counts: Tensor | SparseRows, log_mean: Tensor) -> Tensor:
        mean = log_mean.exp()
        where, x = at_counts(counts, log_mean.dtype)
        value = -mean.sum(1)
        value.index_add_(0, where[0], x * log_mean[where] - torch.lgamma(x + 1))
        if any(ctx.needs_input_grad):
            slope = -mean
            slope[where] += x
            ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor]:
        (slope,) = ctx.saved_tensors
        return None, slope * outer[:, None]
