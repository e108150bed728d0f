"""A low and a high level of each feature: the background and the foreground of proteins, before any model is trained.

The logs of the counts of a feature, log(1 + x), are taken as a mixture of two normal distributions, which a few steps of
expectation and maximisation find. Nothing is drawn: they begin at a low and a high quantile. From a single start half of the
proteins that are on 5 % of the cells would end in a local optimum, with the upper level in the tail of the lower one; so
they begin twice, and the more likely end is taken.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

N_STEPS = 40
LOW = 0.2  # quantile that the lower level begins at: most proteins are on few of the cells
STARTS = ((0.95, 0.5), (0.99, 0.05))  # quantile and share that the upper level begins at
SMALLEST_DEVIATION = 0.1
SMALLEST_SHARE = 0.01


class Levels(NamedTuple):
    """Of log(1 + count), (features,) each; of a feature that was measured in no cell nothing that means anything."""

    low: Tensor  # mean of the lower level
    deviation: Tensor  # standard deviation there
    high: Tensor  # mean of the upper level
    share: Tensor  # of cells at the upper level


def two_levels(log_counts: Tensor, measured: Tensor) -> Levels:
    """The levels of log(1 + count), from the cells in which each feature was `measured`, (cells, features) both."""
    x = log_counts.double()
    ends = [_ascent(x, measured, quantile, share) for quantile, share in STARTS]
    log_likelihood = torch.stack([each for each, _ in ends])  # (starts, features)
    best = log_likelihood.argmax(0), torch.arange(x.shape[1], device=x.device)
    return Levels(*(torch.stack(values)[best].float() for values in zip(*(levels for _, levels in ends), strict=True)))


def _ascent(x: Tensor, measured: Tensor, quantile: float, share_above: float) -> tuple[Tensor, Levels]:
    """Expectation and maximisation from one start: log likelihood of each feature, and its levels."""
    weight = measured.double()
    n = weight.sum(0).clamp(min=1)
    mean, deviation = _start(x, measured, weight, n, quantile)
    share = torch.full_like(mean, share_above)
    share[0] = 1 - share_above
    for _ in range(N_STEPS):
        belongs = torch.softmax(_log_joint(x, mean, deviation, share), dim=0) * weight
        n_level = belongs.sum(1).clamp(min=1e-6)
        share = (n_level / n).clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
        mean = (belongs * x).sum(1) / n_level
        variance = (belongs * (x - mean[:, None]).square()).sum(1) / n_level
        deviation = variance.sqrt().clamp(min=SMALLEST_DEVIATION)
    log_likelihood = (_log_joint(x, mean, deviation, share).logsumexp(0) * weight).sum(0)
    lower, column = mean.argmin(0), torch.arange(x.shape[1], device=x.device)
    levels = Levels(mean[lower, column], deviation[lower, column], mean[1 - lower, column], share[1 - lower, column])
    return log_likelihood, levels


def _log_joint(x: Tensor, mean: Tensor, deviation: Tensor, share: Tensor) -> Tensor:
    """log p(x, level) but for a constant, (levels, cells, features)."""
    distance = (x - mean[:, None]) / deviation[:, None]
    return (share / deviation).log()[:, None] - distance.square() / 2


def _start(x: Tensor, measured: Tensor, weight: Tensor, n: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """Means and deviations of both levels to begin with, (levels, features) each."""
    known = torch.where(measured, x, torch.nan)
    ends = torch.tensor([LOW, quantile], dtype=x.dtype, device=x.device)
    low, high = known.nanquantile(ends, dim=0).nan_to_num(0.0)
    center = (weight * x).sum(0) / n
    spread = ((weight * (x - center).square()).sum(0) / n).sqrt().clamp(min=SMALLEST_DEVIATION)
    return torch.stack([low, torch.maximum(high, low + SMALLEST_DEVIATION)]), spread.expand(2, -1) / 2
