"""exp, log and log-gamma that a compiler can run on eight numbers at once, for the compiled kernels.

The functions of the C library are called for one number at a time, and a loop that holds such a call is not vectorised.
These are polynomials and selections alone, within 4e-7 of the truth relative to the result. Not-a-number passes through,
so that a run that went wrong is seen to have gone wrong.

Compiled code is kept on disk by numba, beside the package or in the user's cache folder: only the first use on a machine
waits for the compiler. It looks for changes in the file of the caller alone, hence the line `# shared code` in those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

if TYPE_CHECKING:
    from collections.abc import Callable

# sums in any order, products and sums fused; but no promise that numbers are finite, since a check relies on it
FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}


def inlined(function: Callable[..., Any]) -> Any:
    """The function as part of every compiled function that calls it: a call inside a loop would end vectorisation."""
    return numba.njit(fastmath=FAST, error_model="numpy", nogil=True, forceinline=True)(function)


def compiled(function: Callable[..., Any]) -> Any:
    """The function as machine code that lets other threads run; kept on disk where a folder can be written."""
    try:
        return numba.njit(fastmath=FAST, error_model="numpy", nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(fastmath=FAST, error_model="numpy", nogil=True)(function)


def _coefficients() -> tuple[np.float32, ...]:
    """Of log(1 + t) / t on [0, 1], to 2e-8."""
    points = Chebyshev.interpolate(lambda t: np.log1p(t + 1e-300) / (t + 1e-300), 9, domain=[0, 1])
    return tuple(np.float32(c) for c in points.convert(kind=Polynomial).coef)


f = np.float32
ZERO, HALF, ONE, TWO = f(0), f(0.5), f(1), f(2)
L0, L1, L2, L3, L4, L5, L6, L7, L8, L9 = _coefficients()
E2, E3, E4, E5, E6, E7 = f(1 / 2), f(1 / 6), f(1 / 24), f(1 / 120), f(1 / 720), f(1 / 5040)
T1, T2, T3, T4, T5 = f(2 / 3), f(2 / 5), f(2 / 7), f(2 / 9), f(2 / 11)
PER_LOG2, LOG2_HIGH, LOG2_LOW = f(1 / np.log(2)), f(0.693359375), f(np.log(2) - 0.693359375)
LOG2 = f(np.log(2))
LOWEST = f(-87)  # below, the exponential is no normal number
HIGHEST = f(89)  # already infinite
SMALLEST = f(1.2e-38)
EXPONENT_OF_ONE, LARGEST_EXPONENT = np.int32(127), np.int32(126)
ROOT_TWO = f(np.sqrt(2))
S1, S3, S5, S7 = f(1 / 12), f(-1 / 360), f(1 / 1260), f(-1 / 1680)
D2, D4, D6, D8 = f(-1 / 12), f(1 / 120), f(-1 / 252), f(1 / 240)
HALF_LOG_TWO_PI = f(0.5 * np.log(2 * np.pi))
THREE, FOUR = f(3), f(4)


@inlined
def exp_negative(x):  # type: ignore[no-untyped-def]
    """e^x for x <= 0."""
    x = LOWEST if x < LOWEST else x
    n = np.floor(x * PER_LOG2 + HALF)
    r = (x - n * LOG2_HIGH) - n * LOG2_LOW
    q = r * r
    value = ((ONE + r) + q * (E2 + r * E3)) + (q * q) * ((E4 + r * E5) + q * (E6 + r * E7))
    return value * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@inlined
def exp(x):  # type: ignore[no-untyped-def]
    """e^x, infinite from e^88.4 on."""
    x = HIGHEST if x > HIGHEST else x
    return exp_negative(x)


@inlined
def log1p_fraction(t):  # type: ignore[no-untyped-def]
    """log(1 + t) for t from 0 to 1, every digit kept when t is small."""
    q = t * t
    q2 = q * q
    low = (L0 + t * L1) + q * (L2 + t * L3)
    return t * (low + q2 * (((L4 + t * L5) + q * (L6 + t * L7)) + q2 * (L8 + t * L9)))


@inlined
def log_ratio(a, b):  # type: ignore[no-untyped-def]
    """log(a / b) for positive a and b within a factor of two: 2 artanh((a - b) / (a + b))."""
    q = (a - b) / (a + b)
    q2 = q * q
    q4 = q2 * q2
    return q * ((TWO + q2 * T1) + q4 * ((T2 + q2 * T3) + q4 * (T4 + q2 * T5)))


@inlined
def log(y):  # type: ignore[no-untyped-def]
    """log y for y >= 0, where 0 is as 1.2e-38."""
    y = SMALLEST if y < SMALLEST else y
    n = min(np.int32((np.float32(y).view(np.int32) >> np.int32(23)) - EXPONENT_OF_ONE), LARGEST_EXPONENT)
    m = y * np.int32((EXPONENT_OF_ONE - n) << np.int32(23)).view(np.float32)  # a product, which keeps not-a-number
    above = m > ROOT_TWO
    half, next_exponent = m * HALF, f(n) + ONE
    m, exponent = (half if above else m), (next_exponent if above else f(n))
    return exponent * LOG2 + log_ratio(m, ONE)


@inlined
def log1p(t):  # type: ignore[no-untyped-def]
    """log(1 + t) for t >= 0."""
    near, far = log1p_fraction(t), log(ONE + t)  # both, and then a choice: a branch would end vectorisation
    return near if t <= ONE else far


@inlined
def stirling(y):  # type: ignore[no-untyped-def]
    """What log Gamma(y) has beyond (y - 1/2) log y - y + log(2 pi) / 2, for y >= 4: to 4e-9."""
    i = ONE / y
    q = i * i
    return i * ((S1 + q * S3) + (q * q) * (S5 + q * S7))


@inlined
def digamma_tail(y):  # type: ignore[no-untyped-def]
    """What digamma(y) has beyond log y, for y >= 4: to 8e-9."""
    i = ONE / y
    q = i * i
    return -HALF * i + q * ((D2 + q * D4) + (q * q) * (D6 + q * D8))


@inlined
def log_factorial(x):  # type: ignore[no-untyped-def]
    """log Gamma(x + 1) for x > 0."""
    y = x + ONE
    high = y + FOUR
    below = y * (y + ONE) * ((y + TWO) * (y + THREE))
    return (high - HALF) * log(high) - high + HALF_LOG_TWO_PI + stirling(high) - log(below)


@inlined
def log_gamma_ratio(theta, x):  # type: ignore[no-untyped-def]
    """log Gamma(theta + x) / Gamma(theta) for x > 0, and its derivative with respect to theta.

    Shifted up by four, Stirling's series is exact to float32 and its terms subtract without cancellation; the four
    factors below are taken back as products. As the reference, `kernels.gamma_ratio`, does it with eight.
    """
    low = theta + FOUR
    high = low + x
    growth = log1p(x / low)  # log(high / low)
    t, y = theta, theta + x
    below = t * (t + ONE) * ((t + TWO) * (t + THREE))
    above = y * (y + ONE) * ((y + TWO) * (y + THREE))
    value = x * log(high) + (low - HALF) * growth - x + stirling(high) - stirling(low) + log(below / above)
    steps = ONE / (t * y) + ONE / ((t + ONE) * (y + ONE))
    steps += ONE / ((t + TWO) * (y + TWO)) + ONE / ((t + THREE) * (y + THREE))
    return value, growth + digamma_tail(high) - digamma_tail(low) + x * steps
