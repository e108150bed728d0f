"""The negative binomial, written as it is defined; automatic differentiation gives the gradients.

p(x) = Gamma(x + theta) / (Gamma(theta) x!) * (theta / (theta + mu))^theta * (mu / (theta + mu))^x
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_probability(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """log p(x) of every entry, (cells, genes)."""
    theta = log_dispersion.exp()
    log_odds = log_mean - log_dispersion  # log(mu / theta)
    choices = torch.lgamma(counts + theta) - torch.lgamma(theta) - torch.lgamma(counts + 1)
    return choices - theta * F.softplus(log_odds) - counts * F.softplus(-log_odds)


def log_likelihood(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Sum over genes, (cells,)."""
    return log_probability(counts, log_mean, log_dispersion).sum(1)
