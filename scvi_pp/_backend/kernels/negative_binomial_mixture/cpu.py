"""The mixture as machine code: value and gradients of each count at once.

With u = log background - log theta and v = u + log factor, of a count x

    B = -theta softplus(u) - x softplus(-u)            and F of v likewise
    log p = C(x, theta) - log x! + log(pi e^B + (1 - pi) e^F),    r = pi e^B / (pi e^B + (1 - pi) e^F)

    d/dlog background = r B' + (1 - r) F'              B' = x sigmoid(-u) - theta sigmoid(u)
    d/dlog factor     = (1 - r) F'
    d/dlogit pi       = r - pi
    d/dlog theta      = theta C' - r (theta softplus(u) + B') - (1 - r) (theta softplus(v) + F')
"""

from __future__ import annotations

# shared code: bef550407b83
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from scvi_pp._backend.kernels.arithmetic import (
    ONE,
    ZERO,
    compiled,
    exp_negative,
    inlined,
    log1p_fraction,
    log_factorial,
    log_gamma_ratio,
)

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(
    counts: Tensor, log_background: Tensor, log_factor: Tensor, log_dispersion: Tensor, background_logits: Tensor
) -> Tensor:
    """By protein, (cells, proteins)."""
    arguments = (log_background, log_factor, log_dispersion, background_logits)
    value: Tensor = _LogLikelihood.apply(counts, *arguments)  # type: ignore[no-untyped-call]
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counts: Tensor, *arguments: Tensor) -> Tensor:
        log_background, log_factor, log_dispersion, logits = (each.detach() for each in arguments)
        value = torch.empty(log_background.shape)
        gradients = [torch.empty_like(value) for _ in arguments]
        proteins(
            counts.contiguous().numpy(),
            log_background.contiguous().numpy(),
            log_factor.contiguous().numpy(),
            torch.atleast_2d(log_dispersion).contiguous().numpy(),
            torch.atleast_2d(log_dispersion).exp().contiguous().numpy(),
            logits.contiguous().numpy(),
            value.numpy(),
            *(gradient.numpy() for gradient in gradients),
        )
        ctx.save_for_backward(*gradients)
        ctx.dispersion_shape = log_dispersion.shape
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        to_background, to_factor, to_dispersion, to_logits = (each * outer for each in ctx.saved_tensors)
        if len(ctx.dispersion_shape) == 1:
            to_dispersion = to_dispersion.sum(0)
        return None, to_background, to_factor, to_dispersion, to_logits


@compiled
def proteins(  # type: ignore[no-untyped-def]
    x, log_background, log_factor, log_theta, theta, logits, value, to_background, to_factor, to_theta, to_logits
):
    """All (cells, proteins), but log_theta and theta, which may have one row for all cells."""
    for i in range(x.shape[0]):
        row = i if theta.shape[0] > 1 else 0
        for j in range(x.shape[1]):
            count, th = x[i, j], theta[row, j]
            u = log_background[i, j] - log_theta[row, j]
            of_background, pull_of_background, spread_of_background = negative_binomial(count, u, th)
            of_foreground, pull_of_foreground, spread_of_foreground = negative_binomial(count, u + log_factor[i, j], th)
            logit = logits[i, j]
            missed, chance = softplus(logit)  # -log(1 - pi), and pi
            apart = of_background - of_foreground + logit
            nearer = of_background + logit if apart >= ZERO else of_foreground
            nearness = log1p_fraction(exp_negative(-abs(apart)))
            _, background = softplus(apart)
            _, foreground = softplus(-apart)  # no difference: what is next to nothing keeps its digits
            ratio, ratio_slope = log_gamma_ratio(th, count)
            value[i, j] = ratio - log_factorial(count) + nearer + nearness - missed
            to_factor[i, j] = foreground * pull_of_foreground
            to_background[i, j] = background * pull_of_background + to_factor[i, j]
            to_logits[i, j] = background - chance
            to_theta[i, j] = (
                th * ratio_slope
                - background * (spread_of_background + pull_of_background)
                - foreground * (spread_of_foreground + pull_of_foreground)
            )


@inlined
def negative_binomial(x, u, theta):  # type: ignore[no-untyped-def]
    """-theta softplus(u) - x softplus(-u), its slope by u, and theta softplus(u)."""
    above, share = softplus(u)
    below, rest = softplus(-u)
    spread = theta * above
    return -spread - x * below, x * rest - theta * share, spread


@inlined
def softplus(u):  # type: ignore[no-untyped-def]
    """log(1 + e^u), and its slope, the sigmoid."""
    t = exp_negative(-abs(u))
    inverse = ONE / (ONE + t)
    positive = u >= ZERO
    return log1p_fraction(t) + (u if positive else ZERO), inverse if positive else t * inverse
