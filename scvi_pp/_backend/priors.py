"""What is believed before any cell is seen, and how far a posterior has moved from it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence


def standard_normal(like: Tensor) -> Normal:
    """N(0, 1) in every latent dimension."""
    return Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)


def divergence(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) summed over dimensions, (cells,)."""
    return kl_divergence(q, p).sum(1)
