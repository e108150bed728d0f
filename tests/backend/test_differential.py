"""Statistics of paired draws against what they are by definition, gene by gene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scvi_pp._backend import differential
from scvi_pp._backend.comparisons import Strata
from scvi_pp._backend.population import PARTICLES, chosen


@pytest.fixture
def change() -> np.ndarray:
    return np.random.default_rng(0).normal(np.linspace(-1, 1, 7)[:, None], 0.5, (7, 401))


def test_directions_count_draws_at_or_beyond_delta(change: np.ndarray):
    change[0, :3] = [0.25, -0.25, -0.2501]
    ways = differential.directions(change, 0.25)
    for gene, draws in enumerate(change):
        assert ways.up[gene] == sum(x >= 0.25 for x in draws) / 401
        assert ways.down[gene] == sum(x < -0.25 for x in draws) / 401
    np.testing.assert_array_equal(ways.either, np.maximum(ways.up, ways.down))


@pytest.mark.parametrize("n_draws", [1, 2, 400, 401])
def test_moments_are_those_of_numpy(n_draws: int):
    change = np.random.default_rng(1).normal(size=(5, n_draws))
    found = differential.moments(change.copy())
    for name, expected in (("mean", np.mean), ("median", np.median), ("std", np.std), ("min", np.min), ("max", np.max)):
        np.testing.assert_allclose(found[name], expected(change, axis=1), rtol=1e-12, atol=1e-15)


def test_the_interval_is_the_narrowest_that_holds_its_share(change: np.ndarray):
    low, high = differential.narrowest_interval(change, 0.9)
    for gene, draws in enumerate(np.sort(change, axis=1)):
        candidates = [(draws[i + 360] - draws[i], draws[i], draws[i + 360]) for i in range(401 - 360)]
        assert (low[gene], high[gene]) == min(candidates)[1:]
        assert ((draws >= low[gene]) & (draws <= high[gene])).mean() >= 0.9


def test_the_longest_list_is_called_whose_expected_error_is_at_most_the_target():
    probability = np.array([0.2, 0.99, 0.9, 1.0, 0.5])
    found = differential.called(probability, 0.05)
    assert found.is_called.tolist() == [False, True, True, True, False]  # (0 + 0.01 + 0.1) / 3
    np.testing.assert_allclose(found.expected_fdr, [1.41 / 5, 0.01 / 2, 0.11 / 3, 0, 0.61 / 4])
    assert not differential.called(np.array([0.5, 0.6]), 0.05).is_called.any()


def test_log_odds_are_finite_and_odd():
    found = differential.log_odds(np.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, -found[::-1], atol=1e-6)
    assert found[3] == pytest.approx(np.log(3), rel=1e-6)


def test_the_artefact_level_is_that_of_genes_as_good_as_unseen():
    largest = np.array([1e-3, 1e-6, 2e-6, 5e-2])
    assert differential.artefact_level(largest, np.array([1.0, 0.0, 0.005, 3.0])) == pytest.approx(1.9e-6)
    assert differential.artefact_level(largest, np.full(4, 0.01)) == 0.0


def test_delta_from_the_data_lies_between_the_unchanged_and_the_changed():
    random = np.random.default_rng(0)
    means = np.concatenate([random.normal(m, 0.1, n) for m, n in ((0, 800), (2, 100), (-2, 100))])
    assert differential.delta_from(means, seed=0) == pytest.approx(1.2, abs=0.05)
    assert differential.delta_from(random.normal(0, 1e-3, 500), seed=0) == differential.SMALLEST_DELTA


# ---- draws of populations


def test_strata_are_drawn_equally_in_every_batch():
    rows = [np.arange(5), np.arange(5, 105)]
    cells, batches = Strata(rows, [2, 0, 1]).drawn(100, np.random.default_rng(0))
    assert len(cells) == len(batches) == 2 * 102
    for stratum, found in enumerate(np.split(cells, 2)):
        assert set(found) <= set(rows[stratum])
    np.testing.assert_array_equal(np.bincount(batches), [68, 68, 68])


def test_a_population_of_several_strata_has_each_by_its_cells_and_in_the_batch_of_its_partner():
    strata = Strata([np.arange(10), np.arange(10, 40), np.arange(40, 100)], [0, 1])
    n = strata.draws_of_each(6000)
    cells, batches = strata.drawn(6000, np.random.default_rng(0))
    own, rest = (strata.places(side, 6000, np.random.default_rng(1)) for side in ((0,), (1, 2)))
    assert own == slice(0, n)
    np.testing.assert_array_equal(batches[own], batches[rest])
    assert (cells[rest] >= 10).all()
    assert (cells[rest] < 40).mean() == pytest.approx(1 / 3, abs=0.03)


def test_means_of_a_population_weigh_strata_by_their_cells():
    strata = Strata([np.arange(1), np.arange(3)])
    np.testing.assert_allclose(strata.mean(np.array([[0.0, 4.0], [4.0, 0.0]]), (0, 1)), [3.0, 1.0])


# ---- importance


def test_particles_are_chosen_by_their_weights():
    weights = torch.tensor([0.2, 0.3, 0.5]).log()[:, None].expand(3, 30_000)
    taken = chosen(weights, torch.rand(30_000, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_allclose(np.bincount(taken.numpy(), minlength=3) / 30_000, [0.2, 0.3, 0.5], atol=0.01)


def test_one_particle_with_all_the_weight_is_truncated_at_the_root_of_their_number():
    log_weights = torch.full((PARTICLES, 20_000), -1000.0)
    log_weights[3] = 0.0
    taken = chosen(log_weights, torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    assert (taken == 3).all()  # capped, but nothing beside it has any weight
    log_weights = torch.full((PARTICLES, 20_000), 0.0)
    log_weights[3] = 5.0
    taken = chosen(log_weights, torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    weights = np.exp(np.r_[np.zeros(PARTICLES - 1), 5.0])
    capped = np.minimum(weights, weights.mean() * PARTICLES**0.5)
    assert (taken == 3).float().mean().item() == pytest.approx(capped[-1] / capped.sum(), abs=0.01)
