"""The closed regions of a cell and the parts of a Bernoulli likelihood, for the compiled kernels.

The formulas are those of `bernoulli/analytic.py`. A logit beyond 87 counts as certain, as exponentials end there in
float32.
"""

from __future__ import annotations

import math

import numpy as np

from scvi_pp._backend.kernels.arithmetic import (
    ONE,
    SMALLEST,
    T1,
    T2,
    T3,
    T4,
    T5,
    TWO,
    ZERO,
    exp_negative,
    inlined,
    log1p_fraction,
)
from scvi_pp._backend.kernels.bernoulli import reference

FARTHEST = np.float32(87)
NEVER = np.float32(-1000)  # the logit of what cannot be
LOWEST_N, LOWEST_R = np.float32(-144), np.float32(reference.LOWEST + 144 * math.log(2))  # its powers of two, its rest
NOTHING, LOG2 = np.float64(0), np.float64(math.log(2))
BLOCK = 1024  # entries added up in float32 before their sum is added in float64: of a long row digits would be lost
BITS_OF_ROOT_HALF, EXPONENT_OF_ONE = np.int32(0x3F3504F3), np.int32(127)


@inlined
def fading(logit):  # type: ignore[no-untyped-def]
    """e^-|logit|; nothing where float32 ends."""
    size = abs(logit)
    return ZERO if size > FARTHEST else exp_negative(-size)


@inlined
def split(logit):  # type: ignore[no-untyped-def]
    """sigmoid(logit) and sigmoid(-logit)."""
    e = fading(logit)
    most = ONE / (ONE + e)
    least = e * most
    positive = logit >= ZERO
    return (most if positive else least), (least if positive else most)


@inlined
def missing(logit):  # type: ignore[no-untyped-def]
    """-log sigmoid(logit)."""
    return log1p_fraction(fading(logit)) + (ZERO if logit >= ZERO else -logit)


@inlined
def log_rest(rest, p):  # type: ignore[no-untyped-def]
    """n and r such that log(1 - p) = n log 2 + r, given p and 1 - p; that of the lowest value if 1 - p is nothing.

    As 1 - p = m 2^n with m around 1, r is 2 artanh((m - 1) / (m + 1)); where n is 0, m - 1 is -p. m is a product, not a
    mask, so that not-a-number stays what it is.
    """
    n = np.int32(np.int32(np.float32(rest).view(np.int32) - BITS_OF_ROOT_HALF) >> np.int32(23))
    m = rest * np.int32((EXPONENT_OF_ONE - n) << np.int32(23)).view(np.float32)
    above, below = m - ONE, -p
    q = (below if n == 0 else above) / (m + ONE)
    q2 = q * q
    q4 = q2 * q2
    r = q * ((TWO + q2 * T1) + q4 * ((T2 + q2 * T3) + q4 * (T4 + q2 * T5)))
    impossible = rest < SMALLEST
    return (LOWEST_N if impossible else np.float32(n)), (LOWEST_R if impossible else r)


@inlined
def closed(logits, cell, yes, no, slopes):  # type: ignore[no-untyped-def]
    """As if all were closed: the value and its slope by the cell; the other slopes take the place of the arguments."""
    value, total = NOTHING, NOTHING
    for first in range(0, logits.shape[0], BLOCK):
        block = slice(first, first + BLOCK)
        n, r, block_total = closed_block(logits[block], cell, yes[block], no[block], slopes[block])
        value += n * LOG2 + r
        total += block_total
    return value, total


@inlined
def closed_block(logits, cell, yes, no, slopes):  # type: ignore[no-untyped-def]
    """The same for a few regions, the value in two parts: whole powers of two, whose sum is exact, and the rest."""
    yes_cell, no_cell = cell
    powers, value, total = ZERO, ZERO, ZERO
    for j in range(logits.shape[0]):
        yes_region, no_region = split(logits[j])
        p = yes_region * (yes_cell * yes[j])
        rest = no_region + yes_region * (no_cell + yes_cell * no[j])
        n, r = log_rest(rest, p)
        powers += n
        value += r
        odds = ZERO if rest < SMALLEST else p / rest
        total -= odds * no_cell
        slopes[j] = -odds * no[j]
        logits[j] = -odds * no_region
    return powers, value, total
