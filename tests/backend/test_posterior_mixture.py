"""Modalities become one posterior, and what they disagree about costs something."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from scvi_pp._backend.objectives import Elbo
from scvi_pp._backend.posterior_mixture import (
    ModalityWeights,
    disagreement,
    distance_of_means,
    jeffreys,
    mixture,
    mixture_weights,
)

PRESENT = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
N_CELLS, N_MODALITIES = PRESENT.shape
KINDS = ("equal", "universal", "cell")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def posteriors(n: int = N_MODALITIES, n_latent: int = 4) -> list[Normal]:
    return [Normal(normal(N_CELLS, n_latent, seed=i), normal(N_CELLS, n_latent, seed=9 + i).exp()) for i in range(n)]


def filled(how: str, seed: int = 0) -> ModalityWeights:
    weights = ModalityWeights(how, N_MODALITIES, N_CELLS)  # type: ignore[arg-type]
    for i, parameter in enumerate(weights.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed + i)
    return weights


# ---- weights


@pytest.mark.parametrize("how", KINDS)
def test_weights_sum_to_one_over_what_was_measured(how: str):
    weights = filled(how)(PRESENT, torch.arange(N_CELLS))
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1, 1, 1, 0]))
    assert not weights[~PRESENT].any()
    assert (weights[PRESENT] > 0).all()


@pytest.mark.parametrize("how", KINDS)
def test_without_training_all_modalities_count_the_same(how: str):
    weights = ModalityWeights(how, N_MODALITIES, N_CELLS)(PRESENT, torch.arange(N_CELLS))  # type: ignore[arg-type]
    torch.testing.assert_close(weights, PRESENT / PRESENT.sum(1, keepdim=True).clamp(min=1))


def test_equal_weights_have_no_parameters():
    assert not list(ModalityWeights("equal", 3, 10).parameters())
    assert {name for name, _ in ModalityWeights("universal", 3, 10).named_parameters()} == {"shared"}


def test_weights_are_a_softmax_of_what_is_there_whatever_is_not():
    logits = torch.tensor([1.0, -2.0, 300.0])
    weights = mixture_weights(logits, PRESENT)
    torch.testing.assert_close(weights[1, :2], torch.softmax(logits[:2], 0))
    assert torch.equal(weights[3], torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("row", [-1, N_CELLS, 10 * N_CELLS])
def test_a_cell_that_training_has_not_seen_has_the_weights_that_all_share(row: int):
    of_cells = filled("cell")
    shared = ModalityWeights("universal", N_MODALITIES, 0)
    shared.shared = of_cells.shared
    rows = torch.full((N_CELLS,), row)
    assert torch.equal(of_cells(PRESENT, rows), shared(PRESENT, rows))
    assert not torch.equal(of_cells(PRESENT, torch.arange(N_CELLS)), shared(PRESENT, rows))


def test_each_cell_moves_its_own_weights_and_those_that_all_share():
    weights = ModalityWeights("cell", N_MODALITIES, 100)
    rows = torch.tensor([7, 3, -1, 9, 50])
    (weights(PRESENT, rows) * normal(N_CELLS, N_MODALITIES)).sum().backward()
    moved = weights.own.grad.any(1).nonzero()[:, 0].tolist()
    assert moved == [3, 7]  # 9 has one modality and 50 none: their weights are what they are
    assert weights.shared.grad.any()
    assert torch.isfinite(weights.own.grad).all()


# ---- the mixture


def test_the_mixture_is_the_distribution_of_the_weighted_mean_of_draws():
    of_modality, weights = posteriors(), filled("universal")(PRESENT, torch.arange(N_CELLS))
    found = mixture(of_modality, weights)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = [q.sample((100_000,)) * weights[:, i, None] for i, q in enumerate(of_modality)]
    mean = sum(draws)[:, :4]
    # five standard deviations of a mean of 100,000 draws, and of their variance
    off = (found.loc[:4] - mean.mean(0)).abs() / (found.scale[:4] / 100_000**0.5)
    assert off.max() < 5
    torch.testing.assert_close(found.variance[:4], mean.var(0), rtol=5 * (2 / 100_000) ** 0.5, atol=0.0)


def test_one_modality_is_its_own_mixture():
    of_modality = posteriors()
    found = mixture(of_modality, mixture_weights(torch.zeros(3), PRESENT))
    torch.testing.assert_close(found.loc[3], of_modality[2].loc[3])
    torch.testing.assert_close(found.scale[3], of_modality[2].scale[3])


def test_two_that_say_the_same_are_surer_than_one():
    q = posteriors(1)[0]
    both = mixture([q, q], torch.full((N_CELLS, 2), 0.5))
    torch.testing.assert_close(both.loc, q.loc)
    torch.testing.assert_close(both.variance, q.variance / 2)


def test_a_cell_of_which_nothing_was_measured_keeps_the_prior():
    found = mixture(posteriors(), mixture_weights(torch.zeros(3), PRESENT))
    assert not found.loc[4].any()
    assert (found.scale[4] == 1).all()


def test_what_was_not_measured_says_nothing_even_if_it_is_no_number():
    of_modality = posteriors()
    of_modality[0].loc[~PRESENT[:, 0]] = torch.nan
    of_modality[0].scale[~PRESENT[:, 0]] = torch.inf
    found = mixture(of_modality, mixture_weights(torch.zeros(3), PRESENT))
    assert torch.isfinite(found.loc).all()
    assert torch.isfinite(found.scale).all()


# ---- disagreement


def test_the_jeffreys_divergence_is_kl_both_ways():
    p, q = posteriors(2)
    torch.testing.assert_close(jeffreys(p, q), (kl_divergence(p, q) + kl_divergence(q, p)).sum(1))


@pytest.mark.parametrize("between", [jeffreys, distance_of_means])
def test_a_divergence_is_symmetric_and_nothing_between_equals(between):
    p, q = posteriors(2)
    torch.testing.assert_close(between(p, q), between(q, p))
    assert (between(p, q) > 0).all()
    torch.testing.assert_close(between(p, p), torch.zeros(N_CELLS))


def test_the_linear_discrepancy_is_that_of_the_means_of_many_draws():
    """E k(z, z') + E k(w, w') - 2 E k(z, w) with k(z, w) = z'w."""
    p, q = posteriors(2)
    squared = (p.loc * p.loc).sum(1) + (q.loc * q.loc).sum(1) - 2 * (p.loc * q.loc).sum(1)
    torch.testing.assert_close(distance_of_means(p, q).square(), squared)


@pytest.mark.parametrize("penalty", ["Jeffreys", "MMD"])
def test_only_pairs_that_were_measured_in_a_cell_disagree(penalty):
    of_modality = posteriors()
    between = {"Jeffreys": jeffreys, "MMD": distance_of_means}[penalty]
    ab, ac, bc = (between(of_modality[i], of_modality[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    found = disagreement(penalty, of_modality, PRESENT)
    expected = [ab[0] + ac[0] + bc[0], ab[1], bc[2], torch.tensor(0.0), torch.tensor(0.0)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("penalty", ["Jeffreys", "MMD"])
def test_gradients_are_finite_where_modalities_agree_to_the_last_bit(penalty):
    loc = normal(N_CELLS, 4).requires_grad_()
    q = Normal(loc, torch.ones(N_CELLS, 4))
    disagreement(penalty, [q, Normal(loc * 1.0, q.scale)], PRESENT[:, :2]).sum().backward()
    assert torch.isfinite(loc.grad).all()


def test_no_penalty_is_none():
    assert disagreement("none", posteriors(), PRESENT) is None


@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0])
def test_a_penalty_is_in_the_loss_with_the_weight_of_the_warm_up_and_not_in_the_bound(kl_weight: float):
    parts = [normal(N_CELLS, seed=i) for i in range(4)]
    without, penalised = Elbo(*parts[:3]), Elbo(*parts)
    assert torch.equal(penalised.bound, without.bound)
    assert torch.equal(penalised.sums(), without.sums())
    torch.testing.assert_close(penalised.loss(kl_weight), without.loss(kl_weight) + kl_weight * parts[3].mean())
