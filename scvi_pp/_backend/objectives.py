"""What training maximises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Elbo(NamedTuple):
    """The evidence lower bound of each cell, by parts, (cells,) each."""

    reconstruction: Tensor  # log p(x | z)
    divergence: Tensor  # KL terms that the warm-up scales
    fixed_divergence: Tensor  # KL terms at full weight from the first step on
    penalty: Tensor | None = None  # what training adds to the loss, warmed up too; no part of the bound

    @property
    def bound(self) -> Tensor:
        """The bound itself: higher is better."""
        return self.reconstruction - self.divergence - self.fixed_divergence

    def sums(self) -> Tensor:
        """Of the bound and of the reconstruction over the cells, float64 (2,)."""
        return torch.stack([self.bound, self.reconstruction]).detach().sum(1, dtype=torch.float64)

    def loss(self, kl_weight: float | Tensor) -> Tensor:
        """Mean negative bound and mean penalty, with their warmed-up parts weighted."""
        loss = -(self.reconstruction - kl_weight * self.divergence - self.fixed_divergence).mean()
        return loss if self.penalty is None else loss + kl_weight * self.penalty.mean()
