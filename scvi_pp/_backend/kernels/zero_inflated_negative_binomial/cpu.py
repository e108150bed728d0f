"""The zero-inflated negative binomial as machine code: two passes over a row and one over its counts.

The formulas are those of `analytic.py`.
"""

from __future__ import annotations

# shared code: bef550407b83
import numpy as np

from scvi_pp._backend.kernels.arithmetic import (
    ONE,
    ZERO,
    compiled,
    exp_negative,
    inlined,
    log1p_fraction,
    log_factorial,
    log_gamma_ratio,
    log_ratio,
)
from scvi_pp._backend.kernels.negative_binomial.cpu import odds
from scvi_pp._backend.kernels.softmax_row import close, normalise


@compiled
def rows(  # type: ignore[no-untyped-def]
    starts, columns, x, offsets, log_mean, dropout, log_theta, theta, slope_theta, values, totals, normalised
):
    """The arguments are those of `row_likelihood.Work`."""
    n_genes = log_mean.shape[1]
    share, shares, at_mean = np.empty(n_genes, np.float32), np.zeros(n_genes, np.float32), np.empty(n_genes, np.float32)
    at_theta, at_dropout = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    for i in range(log_mean.shape[0]):
        row = i if theta.shape[0] > 1 else 0
        first, last = starts[i], starts[i + 1]
        here = columns[first:last]
        offset = offsets[i] - normalise(log_mean[i], shares) if normalised else offsets[i]
        at_counts = counted(
            here, x[first:last], offset, log_mean[i], dropout[i], log_theta[row], theta[row],
            at_mean, at_theta, at_dropout,
        )  # fmt: skip
        odds(log_mean[i], offset, log_theta[row], slope_theta[i], share)
        value, total = everywhere(theta[row], share, slope_theta[i], dropout[i])
        for k in range(last - first):
            total += at_mean[k] - share[here[k]]
            share[here[k]] = at_mean[k]
            slope_theta[i, here[k]] = at_theta[k]
            dropout[i, here[k]] = at_dropout[k]
        values[i], totals[i] = value + at_counts, total
        close(log_mean[i], share, shares, total, normalised)


@inlined
def everywhere(theta, share, softplus, dropout):  # type: ignore[no-untyped-def]
    """As if all were zeros: the sum of the values and of the slopes; the slopes take the place of the arguments.

    softplus(d) - softplus(-z) is taken as one logarithm, that of (1 + e^-|d|) / (1 + e^-|z|).
    """
    value, total = ZERO, ZERO
    for j in range(theta.shape[0]):
        z = dropout[j]
        excess = -theta[j] * softplus[j] - z
        a, b = exp_negative(-abs(excess)), exp_negative(-abs(z))
        of_a, of_b = ONE / (ONE + a), ONE / (ONE + b)
        small_a, small_b = a * of_a, b * of_b
        above, dropped = excess >= ZERO, z >= ZERO
        value += (excess if above else ZERO) + (ZERO if dropped else z) + log_ratio(ONE + a, ONE + b)
        expressed = of_a if above else small_a
        weighted = expressed * theta[j]
        total -= weighted * share[j]
        softplus[j] = weighted * (share[j] - softplus[j])
        share[j] = -weighted * share[j]
        dropout[j] = (small_b if dropped else of_b) - expressed
    return value, total


@inlined
def counted(columns, x, offset, log_mean, dropout, log_theta, theta, at_mean, at_theta, at_dropout):  # type: ignore[no-untyped-def]
    """The slopes at the counts, and how far their value is from that of a zero there."""
    n = columns.shape[0]
    for k in range(n):
        at_mean[k] = log_mean[columns[k]] + offset - log_theta[columns[k]]
        at_theta[k] = theta[columns[k]]
        at_dropout[k] = dropout[columns[k]]
    value = ZERO
    for k in range(n):
        u, th, z = at_mean[k], at_theta[k], at_dropout[k]
        t = exp_negative(-abs(u))
        inverse = ONE / (ONE + t)
        positive = u >= ZERO
        common = log1p_fraction(t)
        softplus = common + (u if positive else ZERO)
        missing = common + (ZERO if positive else -u)  # softplus(-u)
        share = inverse if positive else t * inverse
        ratio, ratio_slope = log_gamma_ratio(th, x[k])
        pull = x[k] * (t * inverse if positive else inverse)
        excess = -th * softplus - z
        unexpressed = log1p_fraction(exp_negative(-abs(excess))) + (ZERO if excess >= ZERO else -excess)
        value += ratio - log_factorial(x[k]) - x[k] * missing - unexpressed
        at_mean[k] = pull - th * share
        at_theta[k] = th * (ratio_slope + share - softplus) - pull
        b = exp_negative(-abs(z))
        at_dropout[k] = -(ONE if z >= ZERO else b) / (ONE + b)
    return value
