"""How far a posterior has moved from its prior."""

from __future__ import annotations

import torch
from torch.distributions import Normal

from scvi_pp._backend import priors


def test_divergence_from_the_standard_normal_is_the_textbook_formula():
    mean, scale = torch.tensor([[0.5, -2.0], [0.0, 0.0]]), torch.tensor([[0.3, 1.5], [1.0, 1.0]])
    found = priors.divergence(Normal(mean, scale), priors.standard_normal(mean))
    expected = (0.5 * (scale**2 + mean**2 - 1) - scale.log()).sum(1)
    torch.testing.assert_close(found, expected)
    assert found[1] == 0


def test_divergence_is_the_mean_log_ratio_of_draws():
    q, p = Normal(torch.tensor([[3.1]]), torch.tensor([[0.4]])), Normal(torch.tensor([[2.0]]), torch.tensor([[0.7]]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = q.sample((200_000,))
    monte_carlo = (q.log_prob(draws) - p.log_prob(draws)).mean()
    torch.testing.assert_close(priors.divergence(q, p)[0], monte_carlo, rtol=0.02, atol=0.0)


def test_standard_normal_has_the_shape_and_type_asked_for():
    p = priors.standard_normal(torch.full((3, 2), 7.0, dtype=torch.float64))
    assert p.loc.shape == (3, 2)
    assert p.loc.dtype == torch.float64
    assert not p.loc.any()
    assert (p.scale == 1).all()
