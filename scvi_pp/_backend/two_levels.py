"""A low and a high level of each feature: the background and the foreground of proteins, before any model is trained.

The logs of the counts of a feature, log(1 + x), are taken as a mixture of two normal distributions, which a few steps of
expectation and maximisation find. Nothing is drawn: they begin at a low and a high quantile.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

N_STEPS = 40
LOW, HIGH = 0.2, 0.95  # quantiles to begin with: most proteins are on few of the cells
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
    x, weight = log_counts.double(), measured.double()
    n = weight.sum(0).clamp(min=1)
    mean, deviation = _start(x, measured, weight, n)
    share = torch.full_like(mean, 0.5)
    for _ in range(N_STEPS):
        distance = (x - mean[:, None]) / deviation[:, None]  # (levels, cells, features)
        log_density = (share / deviation).log()[:, None] - distance.square() / 2
        belongs = torch.softmax(log_density, dim=0) * weight
        n_level = belongs.sum(1).clamp(min=1e-6)
        share = (n_level / n).clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
        mean = (belongs * x).sum(1) / n_level
        variance = (belongs * (x - mean[:, None]).square()).sum(1) / n_level
        deviation = variance.sqrt().clamp(min=SMALLEST_DEVIATION)
    lower, column = mean.argmin(0), torch.arange(x.shape[1], device=x.device)
    found = (mean[lower, column], deviation[lower, column], mean[1 - lower, column], share[1 - lower, column])
    return Levels(*(values.float() for values in found))


def _start(x: Tensor, measured: Tensor, weight: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations of both levels to begin with, (levels, features) each."""
    known = torch.where(measured, x, torch.nan)
    ends = torch.tensor([LOW, HIGH], dtype=x.dtype, device=x.device)
    low, high = known.nanquantile(ends, dim=0).nan_to_num(0.0)
    center = (weight * x).sum(0) / n
    spread = ((weight * (x - center).square()).sum(0) / n).sqrt().clamp(min=SMALLEST_DEVIATION)
    return torch.stack([low, torch.maximum(high, low + SMALLEST_DEVIATION)]), spread.expand(2, -1) / 2
