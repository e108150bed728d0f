"""What training maximises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

N_SUMS = 3  # that a run keeps of a minibatch


class Elbo(NamedTuple):
    """The evidence lower bound of each cell, by parts, (cells,) each."""

    reconstruction: Tensor  # log p(x | z)
    divergence: Tensor  # KL terms that the warm-up scales
    fixed_divergence: Tensor  # KL terms at full weight from the first step on
    penalty: Tensor | None = None  # what training adds to the loss, warmed up too; no part of the bound
    supervision: Tensor | None = None  # what it costs to miss what is known of a cell, such as its label
    # of cells that come several times in an epoch, and 1 in the mean over all rows: how much each counts
    weight: Tensor | None = None
    supervision_weight: Tensor | None = None  # the same in the loss of what is known

    @property
    def bound(self) -> Tensor:
        """The bound itself: higher is better."""
        return self.reconstruction - self.divergence - self.fixed_divergence

    def sums(self) -> Tensor:
        """Of the bound, the reconstruction and the supervision over the cells, float64 (N_SUMS,)."""
        supervision = torch.zeros_like(self.reconstruction) if self.supervision is None else self.supervision
        of_cells = torch.stack([self.bound, self.reconstruction, supervision]).detach()
        return _weighted(of_cells, self.weight).sum(1, dtype=torch.float64)

    def loss(self, kl_weight: float | Tensor) -> Tensor:
        """Mean negative bound, mean penalty and supervision, with their warmed-up parts weighted."""
        bound = self.reconstruction - kl_weight * self.divergence - self.fixed_divergence
        loss = -_weighted(bound, self.weight).mean()
        if self.penalty is not None:
            loss = loss + kl_weight * self.penalty.mean()
        if self.supervision is not None:
            loss = loss + _weighted(self.supervision, self.supervision_weight).mean()
        return loss


def _weighted(of_cells: Tensor, weight: Tensor | None) -> Tensor:
    return of_cells if weight is None else weight * of_cells
