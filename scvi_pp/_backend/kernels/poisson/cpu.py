"""The Poisson distribution as machine code: one pass over a row and one over its counts."""

from __future__ import annotations

# shared code: bef550407b83
import numpy as np

from scvi_pp._backend.kernels.arithmetic import ZERO, compiled, exp, inlined, log_factorial
from scvi_pp._backend.kernels.softmax_row import close, normalise


@compiled
def rows(  # type: ignore[no-untyped-def]
    starts, columns, x, offsets, log_mean, dropout, log_theta, theta, slope_theta, values, totals, normalised
):
    """The arguments are those of `row_likelihood.Work`; dropout and dispersion are not looked at."""
    slopes, shares = np.empty(log_mean.shape[1], np.float32), np.zeros(log_mean.shape[1], np.float32)
    for i in range(log_mean.shape[0]):
        first, last = starts[i], starts[i + 1]
        here = columns[first:last]
        offset = offsets[i] - normalise(log_mean[i], shares) if normalised else offsets[i]
        value, total = counted(here, x[first:last], offset, log_mean[i])
        expected = everywhere(log_mean[i], offset, slopes)
        for k in range(last - first):
            slopes[here[k]] += x[first + k]
        values[i], totals[i] = value - expected, total - expected
        close(log_mean[i], slopes, shares, total - expected, normalised)


@inlined
def everywhere(log_mean, offset, slopes):  # type: ignore[no-untyped-def]
    """As if all were zeros: the sum of the means; the slopes are their negatives."""
    total = ZERO
    for j in range(log_mean.shape[0]):
        mean = exp(log_mean[j] + offset)
        total += mean
        slopes[j] = -mean
    return total


@inlined
def counted(columns, x, offset, log_mean):  # type: ignore[no-untyped-def]
    """What the counts add to the value, and their sum."""
    value, total = ZERO, ZERO
    for k in range(columns.shape[0]):
        value += x[k] * (log_mean[columns[k]] + offset) - log_factorial(x[k])
        total += x[k]
    return value, total
