"""Dropout: as often as asked, in training alone, and with the mean of what it is given."""

from __future__ import annotations

import pytest
import torch

from scvi_pp._backend.dropout import Dropout, coins


@pytest.fixture(autouse=True)
def _own_random():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.9])
def test_values_are_lost_as_often_as_asked_and_the_mean_stays(rate: float):
    x = torch.ones(1000, 1001)
    y = Dropout(rate)(x)
    deviation = (rate * (1 - rate) / x.numel()) ** 0.5
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=4 * deviation)
    assert float(y.double().mean()) == pytest.approx(1, abs=4 * deviation / (1 - rate))
    assert len(y.unique()) == 2


def test_neighbours_are_lost_independently():
    """Four of them share a draw of 64 bits."""
    lost = (Dropout(0.3)(torch.ones(200_000, 4)) == 0).double()
    correlation = torch.corrcoef(lost.t()) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([lost[:-1, 3], lost[1:, 0]]))[0, 1])) < 0.01


def test_gradients_pass_where_values_did():
    x = torch.randn(50, 30, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 2.0))


def test_nothing_is_lost_outside_training_or_at_a_rate_of_none():
    x = torch.randn(20, 30)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_everything_is_lost_at_a_rate_of_one():
    assert not Dropout(1.0)(torch.randn(20, 30)).any()


def test_the_seed_decides_and_the_type_stays():
    x = torch.randn(7, 3, dtype=torch.float64)
    torch.manual_seed(1)
    one = Dropout(0.4)(x)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.4)(x), one)
    assert one.dtype == torch.float64


def test_every_number_of_sixteen_bits_comes():
    found = coins(4_000_001)
    assert found.shape == (4_000_001,)
    assert len(found.unique()) == 1 << 16
