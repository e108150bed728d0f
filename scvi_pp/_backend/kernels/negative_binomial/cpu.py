"""The negative binomial as machine code: value and gradients in two passes over a row and one over its counts.

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
)
from scvi_pp._backend.kernels.softmax_row import close, normalise


@compiled
def rows(  # type: ignore[no-untyped-def]
    starts, columns, x, offsets, log_mean, dropout, log_theta, theta, slope_theta, values, totals, normalised
):
    """The arguments are those of `row_likelihood.Work`; `dropout` is not looked at."""
    n_genes = log_mean.shape[1]
    share, shares = np.empty(n_genes, np.float32), np.zeros(n_genes, np.float32)
    pull, slope = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    for i in range(log_mean.shape[0]):
        row = i if theta.shape[0] > 1 else 0
        first, last = starts[i], starts[i + 1]
        here = columns[first:last]
        offset = offsets[i] - normalise(log_mean[i], shares) if normalised else offsets[i]
        at_counts = counted(here, x[first:last], offset, log_mean[i], log_theta[row], theta[row], pull, slope)
        odds(log_mean[i], offset, log_theta[row], slope_theta[i], share)
        value, total = everywhere(theta[row], share, slope_theta[i])
        for k in range(last - first):
            share[here[k]] += pull[k]
            slope_theta[i, here[k]] += slope[k]
            total += pull[k]
        values[i], totals[i] = value + at_counts, total
        close(log_mean[i], share, shares, total, normalised)


@inlined
def odds(log_mean, offset, log_theta, softplus, share):  # type: ignore[no-untyped-def]
    """softplus(u) and sigmoid(u) of the log odds u = log mu - log theta."""
    for j in range(log_mean.shape[0]):
        u = log_mean[j] + offset - log_theta[j]
        t = exp_negative(-abs(u))
        inverse = ONE / (ONE + t)
        positive = u >= ZERO
        softplus[j] = log1p_fraction(t) + (u if positive else ZERO)
        share[j] = inverse if positive else t * inverse


@inlined
def everywhere(theta, share, softplus):  # type: ignore[no-untyped-def]
    """As if all were zeros: the sum of the values and of the slopes; the slopes take the place of the arguments."""
    value, total = ZERO, ZERO
    for j in range(theta.shape[0]):
        spread, push = theta[j] * softplus[j], theta[j] * share[j]
        value -= spread
        total -= push
        share[j] = -push
        softplus[j] = push - spread
    return value, total


@inlined
def counted(columns, x, offset, log_mean, log_theta, theta, pull, slope):  # type: ignore[no-untyped-def]
    """What the counts add to the value, and to the slopes by log mu and log theta."""
    n = columns.shape[0]
    for k in range(n):
        pull[k] = log_mean[columns[k]] + offset - log_theta[columns[k]]
        slope[k] = theta[columns[k]]
    value = ZERO
    for k in range(n):
        u, th = pull[k], slope[k]
        t = exp_negative(-abs(u))
        inverse = ONE / (ONE + t)
        positive = u >= ZERO
        missing = log1p_fraction(t) + (ZERO if positive else -u)  # softplus(-u)
        ratio, ratio_slope = log_gamma_ratio(th, x[k])
        value += ratio - log_factorial(x[k]) - x[k] * missing
        pulled = x[k] * (t * inverse if positive else inverse)
        pull[k] = pulled
        slope[k] = th * ratio_slope - pulled
    return value
