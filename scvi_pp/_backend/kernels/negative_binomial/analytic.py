"""The negative binomial with its gradients worked out by hand: log-gammas at the non-zero counts only.

With u = log mu - log theta and s = sigmoid(u):
    sum_g log p = - sum_all theta softplus(u) + sum_nonzero [ C(x, theta) - x softplus(-u) ]
    d/dlog mu    = - theta s [all] + x (1 - s) [nonzero]
    d/dlog theta = theta (s - softplus(u)) [all] + theta C' - x (1 - s) [nonzero]
with 1 - s = sigmoid(-u), never a difference: s rounds to 1 long before theta / mu is nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi_pp._backend.kernels.counts import at_counts
from scvi_pp._backend.kernels.gamma_ratio import log_gamma_ratio

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(counts: Tensor | SparseRows, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Sum over genes, (cells,)."""
    value: Tensor = _LogLikelihood.apply(counts, log_mean, log_dispersion)  # type: ignore[no-untyped-call]
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counts: Tensor | SparseRows, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
        theta = log_dispersion.exp()
        log_odds = log_mean - log_dispersion
        softplus = F.softplus(log_odds)
        value = -(theta * softplus).sum(1)

        where, x = at_counts(counts, log_mean.dtype)
        theta_nonzero = theta.expand_as(log_mean)[where]
        log_odds_nonzero = log_odds[where]
        ratio, ratio_slope = log_gamma_ratio(theta_nonzero, x)
        at_nonzero = ratio - torch.lgamma(x + 1) - x * F.softplus(-log_odds_nonzero)
        value.index_add_(0, where[0], at_nonzero)

        if any(ctx.needs_input_grad):
            share = torch.sigmoid(log_odds)
            pull = x * torch.sigmoid(-log_odds_nonzero)
            slope_mean = -theta * share
            slope_mean[where] += pull
            slope_dispersion = theta * (share - softplus)
            slope_dispersion[where] += theta_nonzero * ratio_slope - pull
            ctx.save_for_backward(slope_mean, slope_dispersion)
            ctx.dispersion_shape = log_dispersion.shape
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor, Tensor]:
        slope_mean, slope_dispersion = ctx.saved_tensors
        scale = outer[:, None]
        if len(ctx.dispersion_shape) == 1:
            return None, slope_mean * scale, outer @ slope_dispersion
        return None, slope_mean * scale, slope_dispersion * scale
