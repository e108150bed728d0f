"""The Bernoulli distribution of open regions, written as it is defined; automatic differentiation gives the gradients.

p(open) = sigmoid(region) sigmoid(cell) sigmoid(factor)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

LOWEST = -100.0  # of log(1 - p), as in torch's binary_cross_entropy: a closed region that cannot be closed


def log_probability(
    counts: Tensor, region_logits: Tensor, cell_logits: Tensor | None, factor_logits: Tensor | None
) -> Tensor:
    """log p of every entry, (cells, regions)."""
    log_open = F.logsigmoid(region_logits)
    for logits in (cell_logits, factor_logits):
        if logits is not None:
            log_open = log_open + F.logsigmoid(logits)
    log_closed = (-torch.expm1(log_open)).clamp(min=math.exp(LOWEST)).log()
    return torch.where(counts > 0, log_open, log_closed)


def log_likelihood(
    counts: Tensor, region_logits: Tensor, cell_logits: Tensor | None, factor_logits: Tensor | None
) -> Tensor:
    """Sum over regions, (cells,)."""
    return log_probability(counts, region_logits, cell_logits, factor_logits).sum(1)
