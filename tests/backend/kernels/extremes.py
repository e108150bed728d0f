"""Wherever counts may take a likelihood: every combination of extremes, what it must give, and how exact that can be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scvi_pp._backend.kernels import negative_binomial, poisson, zero_inflated_negative_binomial

COUNTS = (0, 1, 2, 10, 300, 1e4, 1e5)
MEANS = (1e-8, 1e-4, 0.1, 3, 100, 1e4, 1e6)
DISPERSIONS = (1e-6, 1e-3, 0.05, 1, 30, 1e3, 1e6)
DROPOUT_LOGITS = (-30, -5, 0, 4, 30)
ARGUMENTS = ("counts", "log_mean", "log_dispersion", "dropout_logits")

KERNELS = {
    "poisson": poisson,
    "negative_binomial": negative_binomial,
    "zero_inflated_negative_binomial": zero_inflated_negative_binomial,
}
N_ARGUMENTS = {"poisson": 2, "negative_binomial": 3, "zero_inflated_negative_binomial": 4}

Form = Callable[..., Tensor]


def extremes(name: str) -> list[Tensor]:
    """Every combination, (n,) an argument; exact in float32, held in float64."""
    axes = [COUNTS, MEANS, DISPERSIONS, DROPOUT_LOGITS][: N_ARGUMENTS[name]]
    grid = torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)
    grid[:, 1:3] = grid[:, 1:3].log()
    return list(grid.float().double().T)


def value_and_gradients(
    form: Form, arguments: list[Tensor], dtype: torch.dtype, *, counts_as: Callable[[Tensor], Any] = lambda x: x
) -> list[Tensor]:
    """The value (cells,), then its derivative by each argument but the counts, shaped like it, in float64."""
    counts, *parameters = (argument.to(dtype) for argument in arguments)
    leaves = [parameter.clone().requires_grad_() for parameter in parameters]
    value = form(counts_as(counts), *leaves)
    value.sum().backward()
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves)]


def magnitudes(arguments: list[Tensor]) -> list[Tensor]:
    """The terms that cancel in the value and in each derivative: rounding is relative to them."""
    x, log_mean, *more = arguments
    if not more:
        return [log_mean.exp() + x * log_mean.abs() + torch.lgamma(x + 1), x + log_mean.exp()]
    log_dispersion, *dropout = more
    theta, u = log_dispersion.exp(), log_mean - log_dispersion
    choices = (torch.lgamma(x + theta) - torch.lgamma(theta)).abs() + torch.lgamma(x + 1)
    spread, pull, push = theta * F.softplus(u), x * torch.sigmoid(-u), theta * torch.sigmoid(u)
    slope = theta * (torch.digamma(x + theta) - torch.digamma(theta))
    value = choices + spread + x * F.softplus(-u)
    if not dropout:
        return [value, pull + push, pull + push + spread + slope]
    return [value + F.softplus(dropout[0].abs()), pull + push, pull + push + spread + slope, torch.ones_like(x)]


def rounding(arguments: list[Tensor]) -> list[Tensor]:
    """What float32 may lose in the value and in each derivative, relative to the terms.

    The log odds log mu - log theta are rounded before their exponential is taken: half a last digit there, |u| 2^-24 at
    most, is the same relative error of mu / theta. Beyond that a few last digits of the arithmetic: more in the value,
    where log-gammas of small counts cancel.
    """
    log_odds = arguments[1] - arguments[2] if len(arguments) > 2 else torch.zeros_like(arguments[1])
    return [digits + log_odds.abs() * 2**-24 for digits in (8e-7, *[1.2e-7] * (len(arguments) - 1))]
