"""Background and foreground of proteins are found before any model is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scvi_pp._backend.two_levels import two_levels
from tests.studies import Judge, seeds


def log_counts(low: float, high: float, share: float, n: int = 2000, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random(n) < share, high, low) * rng.lognormal(0, 0.3, n)
    return torch.tensor(rng.poisson(rate), dtype=torch.float32).log1p()[:, None]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
@pytest.mark.parametrize(("low", "high"), [(5, 80), (15, 150), (1, 30)])
def test_both_levels_and_the_share_of_the_upper_are_found(low: float, high: float, share: float, judge: Judge):
    """In each of ten studies, to a quarter of the levels and 0.05 of the cells."""
    x = torch.cat([log_counts(low, high, share, seed=seed) for seed in seeds(10)], dim=1)
    found = two_levels(x, torch.ones_like(x, dtype=torch.bool))
    of_low, of_high = (found.low.expm1() / low - 1).abs(), (found.high.expm1() / high - 1).abs()
    is_found = (of_low < 0.25) & (of_high < 0.25) & ((found.share - share).abs() < 0.05)
    judge(f"two levels, {low} and {high}, {share} above: share of studies found", is_found, above=0.75)


def test_what_was_not_measured_says_nothing():
    one, other = log_counts(5, 80, 0.3), log_counts(5, 80, 0.3, n=500, seed=1)
    alone = two_levels(one, torch.ones_like(one, dtype=torch.bool))
    measured = torch.cat([torch.ones(2000, 1), torch.zeros(500, 1)]).bool()
    torch.testing.assert_close(two_levels(torch.cat([one, 0 * other]), measured), alone)


def test_proteins_are_looked_at_one_by_one():
    x = torch.cat([log_counts(5, 80, 0.3), log_counts(20, 300, 0.1, seed=1)], dim=1)
    measured = torch.ones_like(x, dtype=torch.bool)
    whole = two_levels(x, measured)
    for column in range(2):
        alone = two_levels(x[:, [column]], measured[:, [column]])
        torch.testing.assert_close(whole.low[[column]], alone.low)


@pytest.mark.parametrize(
    "x", [torch.zeros(5, 2), torch.full((1, 2), 3.0), torch.tensor([[0.0, 1.0], [0.0, 1.0]])], ids=["0", "1", "2"]
)
def test_few_cells_and_constant_counts_give_finite_levels(x: torch.Tensor):
    for measured in (torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x, dtype=torch.bool)):
        found = two_levels(x, measured)
        assert all(torch.isfinite(values).all() for values in found)
        assert (found.high >= found.low).all() and (found.deviation > 0).all()
