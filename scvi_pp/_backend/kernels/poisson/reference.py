"""The Poisson distribution, written as it is defined; automatic differentiation gives the gradients.

p(x) = mu^x e^-mu / x!
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def log_probability(counts: Tensor, log_mean: Tensor) -> Tensor:
    """log p(x) of every entry, (cells, genes)."""
    return counts * log_mean - log_mean.exp() - torch.lgamma(counts + 1)


def log_likelihood(counts: Tensor, log_mean: Tensor) -> Tensor:
    """Sum over genes, (cells,)."""
    return log_probability(counts, log_mean).sum(1)
