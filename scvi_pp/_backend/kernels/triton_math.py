"""What the likelihoods of counts are made of, for Triton: `arithmetic.py` and `gamma_ratio.py` for a block of numbers.

Of the functions of Triton only exp and log are called, so that every release has them and its interpreter too; neither
is exact near 1, which is why log(1 + t) is a polynomial. Not-a-number passes through: no maximum is taken of anything.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log1p_fraction(t):  # type: ignore[no-untyped-def]
    """log(1 + t) for t from 0 to 1, every digit kept when t is small; the coefficients are those of `arithmetic.py`."""
    q = t * t
    low = (t * -0.499998927 + 1.0) + q * (t * -0.249516159 + 0.333297104)
    high = (t * -0.152696669 + 0.196632743) + q * (t * -0.0563736148 + 0.105436236)
    return t * (low + q * q * (high + q * q * (t * -0.00317605701 + 0.0195425283)))


@triton.jit
def log1p(t):  # type: ignore[no-untyped-def]
    """log(1 + t) for t >= 0."""
    return tl.where(t <= 1.0, log1p_fraction(t), tl.log(t + 1.0))


@triton.jit
def softplus_and_sigmoid(u):  # type: ignore[no-untyped-def]
    """softplus(u), softplus(-u), sigmoid(u), sigmoid(-u): one exponential for all four, none as a difference."""
    t = tl.exp(-tl.abs(u))
    common = log1p_fraction(t)
    larger = 1.0 / (t + 1.0)
    smaller = t * larger
    positive = u >= 0.0
    softplus, missing = common + tl.where(positive, u, 0.0), common - tl.where(positive, 0.0, u)
    return softplus, missing, tl.where(positive, larger, smaller), tl.where(positive, smaller, larger)


@triton.jit
def stirling(y):  # type: ignore[no-untyped-def]
    """What log Gamma(y) has beyond (y - 1/2) log y - y + log(2 pi) / 2, for y >= 4."""
    i = 1.0 / y
    q = i * i
    return i * ((q * (-1 / 360) + 1 / 12) + (q * q) * (q * (-1 / 1680) + 1 / 1260))


@triton.jit
def digamma_tail(y):  # type: ignore[no-untyped-def]
    """What digamma(y) has beyond log y, for y >= 4."""
    i = 1.0 / y
    q = i * i
    return i * -0.5 + q * ((q * (1 / 120) - 1 / 12) + (q * q) * (q * (1 / 240) - 1 / 252))


@triton.jit
def log_factorial(x):  # type: ignore[no-untyped-def]
    """log Gamma(x + 1) for x >= 0."""
    y = x + 1.0
    high = y + 4.0
    below = y * (y + 1.0) * ((y + 2.0) * (y + 3.0))
    return (high - 0.5) * tl.log(high) - high + 0.9189385332046727 + stirling(high) - tl.log(below)


@triton.jit
def log_gamma_ratio(theta, x):  # type: ignore[no-untyped-def]
    """log Gamma(theta + x) / Gamma(theta) for x > 0, and its slope by theta; shifted by four, as in `arithmetic.py`."""
    low = theta + 4.0
    high = low + x
    growth = log1p(x / low)  # log(high / low)
    y = theta + x
    below = theta * (theta + 1.0) * ((theta + 2.0) * (theta + 3.0))
    above = y * (y + 1.0) * ((y + 2.0) * (y + 3.0))
    value = x * tl.log(high) + (low - 0.5) * growth - x + stirling(high) - stirling(low) + tl.log(below / above)
    steps = 1.0 / (theta * y) + 1.0 / ((theta + 1.0) * (y + 1.0))
    steps += 1.0 / ((theta + 2.0) * (y + 2.0)) + 1.0 / ((theta + 3.0) * (y + 3.0))
    return value, growth + digamma_tail(high) - digamma_tail(low) + x * steps
