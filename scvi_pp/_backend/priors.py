"""What is believed before any cell is seen, and how far a posterior has moved from it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal


def standard_normal(like: Tensor) -> Normal:
    """N(0, 1) in every latent dimension."""
    return Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)


def divergence(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) summed over dimensions, (cells,)."""
    return divergence_of_each(q, p).sum(1)


def divergence_of_each(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) by dimension, (cells, dimensions)."""
    ratio = (q.scale / p.scale).square()
    distance = ((q.loc - p.loc) / p.scale).square()
    return 0.5 * (ratio + distance - 1 - ratio.log())


def divergence_from_standard_normal(q: Normal) -> Tensor:
    """KL(q || N(0, 1)) summed over dimensions, (cells,)."""
    variance = q.scale.square()
    return 0.5 * (variance + q.loc.square() - 1 - variance.log()).sum(1)
