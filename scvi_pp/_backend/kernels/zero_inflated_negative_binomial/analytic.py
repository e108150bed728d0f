"""The zero-inflated negative binomial with its gradients worked out by hand: log-gammas at the non-zero counts only.

With u = log mu - log theta, s = sigmoid(u), z the dropout logits, d = -theta softplus(u) - z, w = sigmoid(d):
    sum_g log p = sum_all [ softplus(d) - softplus(-z) ]
                + sum_nonzero [ C(x, theta) - x softplus(-u) - softplus(-d) ]
                  at a zero                        at a non-zero count
    d/dz          sigmoid(-z) - w                  -sigmoid(z)
    d/dlog mu     -w theta s                       x (1 - s) - theta s
    d/dlog theta  w theta (s - softplus(u))        theta C' + theta (s - softplus(u)) - x (1 - s)
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


def log_likelihood(
    counts: Tensor | SparseRows, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor
) -> Tensor:
    """Sum over genes, (cells,)."""
    value: Tensor = _LogLikelihood.apply(  # type: ignore[no-untyped-call]
        counts, log_mean, log_dispersion, dropout_logits
    )
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counts: Tensor | SparseRows, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor
    ) -> Tensor:
        theta = log_dispersion.exp()
        log_odds = log_mean - log_dispersion
        softplus = F.softplus(log_odds)
        excess = -theta * softplus - dropout_logits
        value = (F.softplus(excess) - F.softplus(-dropout_logits)).sum(1)

        where, x = at_counts(counts, log_mean.dtype)
        theta_nonzero = theta.expand_as(log_mean)[where]
        log_odds_nonzero = log_odds[where]
        ratio, ratio_slope = log_gamma_ratio(theta_nonzero, x)
        at_nonzero = ratio - torch.lgamma(x + 1) - x * F.softplus(-log_odds_nonzero) - F.softplus(-excess[where])
        value.index_add_(0, where[0], at_nonzero)

        if any(ctx.needs_input_grad):
            share = torch.sigmoid(log_odds)
            expressed = torch.sigmoid(excess)  # that a zero is a zero of the negative binomial
            share_nonzero = share[where]
            weighted = expressed * theta
            slope_mean = -weighted * share
            pull = x * torch.sigmoid(-log_odds_nonzero)
            slope_mean[where] = pull - theta_nonzero * share_nonzero
            slope_dispersion = weighted * (share - softplus)
            slope_dispersion[where] = theta_nonzero * (ratio_slope + share_nonzero - softplus[where]) - pull
            slope_dropout = torch.sigmoid(-dropout_logits) - expressed
            slope_dropout[where] = -torch.sigmoid(dropout_logits[where])
            ctx.save_for_backward(slope_mean, slope_dispersion, slope_dropout)
            ctx.dispersion_shape = log_dispersion.shape
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        slope_mean, slope_dispersion, slope_dropout = ctx.saved_tensors
        scale = outer[:, None]
        dispersion = outer @ slope_dispersion if len(ctx.dispersion_shape) == 1 else slope_dispersion * scale
        return None, slope_mean * scale, dispersion, slope_dropout * scale
