"""What changes while training runs: the learning rate and the weight of the KL term, both fixed shares of the budget.

A run of 16 epochs and one of 400 pass through the same phases, so a short budget never ends half-way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# shares of the run: the learning rate rises, then falls along a cosine (Smith and Topin 2019, one cycle)
RISE = 0.1
START_FACTOR = 0.1

# the default budget, chosen on real sets by held-out ELBO and by integration scores (docs/benchmarks.md)
USUAL_EPOCHS = 16
FEWEST_STEPS = 280
MOST_STEPS = 20_000
FEWEST_EPOCHS = 8


@dataclass(frozen=True)
class Schedule:
    """Progress through the run, from 0 to 1, to what holds there."""

    learning_rate: float
    kl_warmup: float  # share of the run over which the KL weight rises from 0
    kl_weight: float  # what it rises to

    def learning_rate_at(self, progress: float) -> float:
        """The step size there."""
        if progress < RISE:
            return self.learning_rate * (START_FACTOR + (1 - START_FACTOR) * progress / RISE)
        fall = (progress - RISE) / (1 - RISE)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))

    def kl_weight_at(self, progress: float) -> float:
        """The weight of the KL term there."""
        return self.kl_weight if progress >= self.kl_warmup else self.kl_weight * progress / self.kl_warmup


def default_epochs(
    n_cells: int, batch_size: int, *, usual: int = USUAL_EPOCHS, fewest_steps: int = FEWEST_STEPS
) -> int:
    """The usual passes; more where they would be too few steps, fewer where they would be more than it takes."""
    steps_per_epoch = max(1.0, n_cells / batch_size)
    return max(FEWEST_EPOCHS, round(min(max(usual, fewest_steps / steps_per_epoch), MOST_STEPS / steps_per_epoch)))
