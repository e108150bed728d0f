"""Training steps of any model as a device repeats them, and as a book has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scvi_pp._backend.graph import Epochs
from scvi_pp._backend.objectives import N_SUMS
from scvi_pp._backend.optimizer import SharedAdam
from scvi_pp._backend.streams import Cells

N_STEPS = 4
KL_WEIGHTS, LEARNING_RATES = np.linspace(0, 1, N_STEPS), np.linspace(1e-3, 5e-3, N_STEPS)


class Training:
    """A network with its optimizer, and how it takes a step."""

    def __init__(self, network: Any, cells: Cells) -> None:
        self.network, self.cells = network, cells
        self.network.train()
        self.optimizer = SharedAdam(self.network, weight_decay=1e-4)

    def step(self, cells: Any, kl_weight: float | Tensor, learning_rate: float | Tensor) -> Tensor:
        """Forward, backward and Adam; the sums."""
        elbo = self.network.elbo(cells)
        elbo.loss(kl_weight).backward()
        self.optimizer.step(learning_rate)
        return elbo.sums()

    def epochs(self) -> Epochs:
        """Its steps as they are repeated."""
        return Epochs(self.step, self.network.zero_grad, self.cells, self.cells.n_cells, N_STEPS)

    def one_by_one(self, order: Tensor, learning_rates: list[float]) -> Tensor:
        """An epoch as it is written down in a book."""
        sums = torch.zeros(N_SUMS, dtype=torch.float64)
        for index, weight, rate in zip(order.tensor_split(N_STEPS), KL_WEIGHTS, learning_rates, strict=True):
            sums += self.step(self.cells.minibatch(index), float(weight), rate)
        return sums


class WithoutMoments(Training):
    """The same with plain descent for Adam, which has no form for a device without values."""

    def __init__(self, network: Any, cells: Cells) -> None:
        self.network, self.cells = network, cells
        self.network.train()

    def step(self, cells: Any, kl_weight: float | Tensor, learning_rate: float | Tensor) -> Tensor:
        """Forward and backward, and each parameter against its gradient."""
        elbo = self.network.elbo(cells)
        elbo.loss(kl_weight).backward()
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                parameter.data -= learning_rate * parameter.grad
        return elbo.sums()
