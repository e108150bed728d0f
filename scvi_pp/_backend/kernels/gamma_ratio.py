"""log Gamma(theta + x) / Gamma(theta) and its derivative, in float32, for theta from 1e-6 to 1e6.

Subtracting two log-gammas loses every digit once theta is large (log Gamma(1e6) is 1.3e7, the ratio about 14).
Shifting theta up by eight first makes Stirling's series exact to float32, and its terms subtract without cancellation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHIFT = 8


def log_rising(theta: Tensor, x: Tensor) -> Tensor:
    """The value alone, whose gradient by theta is the derivative: counts have none."""
    value: Tensor = _LogRising.apply(theta, x)  # type: ignore[no-untyped-call]
    return value


class _LogRising(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, x: Tensor) -> Tensor:
        value, derivative = log_gamma_ratio(theta, x)
        ctx.save_for_backward(derivative)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return outer * derivative, None


def log_gamma_ratio(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Value and derivative with respect to theta, element by element."""
    low, high = theta + SHIFT, theta + SHIFT + x
    growth = torch.log1p(x / low)  # log(high / low) without cancellation
    value = x * torch.log(high) + (low - 0.5) * growth - x + _stirling(high) - _stirling(low)
    derivative = growth + _digamma_tail(high) - _digamma_tail(low)
    for start in range(0, SHIFT, 4):  # four factors at a time stay inside float32
        below = torch.ones_like(low)
        above = torch.ones_like(low)
        for k in range(start, start + 4):
            below = below * (theta + k)
            above = above * (theta + x + k)
            derivative = derivative + x / ((theta + k) * (theta + x + k))
        value = value + torch.log(below / above)
    return value, derivative


def _stirling(y: Tensor) -> Tensor:
    """What log Gamma(y) has beyond (y - 1/2) log y - y + const."""
    inverse = 1 / y
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


def _digamma_tail(y: Tensor) -> Tensor:
    """What digamma(y) has beyond log y."""
    inverse = 1 / y
    square = inverse * inverse
    return -0.5 * inverse - square * (1 / 12 - square * (1 / 120 - square / 252))
