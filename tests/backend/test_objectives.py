"""The bound of a cell, and the loss that training follows."""

from __future__ import annotations

import pytest
import torch

from scvi_pp._backend.objectives import Elbo

ELBO = Elbo(torch.tensor([-10.0, -20.0]), torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.25]))


def test_bound_is_reconstruction_less_both_divergences():
    assert ELBO.bound.tolist() == [-11.5, -23.25]


@pytest.mark.parametrize(("kl_weight", "expected"), [(0.0, 15.375), (0.5, 16.375), (1.0, 17.375)])
def test_warm_up_weights_one_divergence_alone(kl_weight: float, expected: float):
    assert float(ELBO.loss(kl_weight)) == pytest.approx(expected)


def test_loss_at_full_weight_is_the_mean_negative_bound():
    assert float(ELBO.loss(1.0)) == pytest.approx(-float(ELBO.bound.mean()))
