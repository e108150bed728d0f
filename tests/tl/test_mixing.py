"""The mixing score: 1 for groups that lie as one, 0 for islands."""

from __future__ import annotations

import numpy as np
import pytest

from scvi_pp.tl._mixing import MOST_CELLS, mixing_score

N_CELLS = 1200


def latent(n_cells: int = N_CELLS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_cells, 4)).astype(np.float32)


def shuffled(shares: tuple[float, ...], n_cells: int = N_CELLS) -> np.ndarray:
    return np.random.default_rng(1).choice(len(shares), n_cells, p=shares).astype(np.int64)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.1, 0.9), (0.2, 0.3, 0.5)], ids=str)
def test_groups_that_lie_as_one_score_near_1_whatever_their_size(shares: tuple[float, ...]):
    scores = mixing_score(latent(), shuffled(shares))
    assert set(scores) == set(range(len(shares)))
    assert min(scores.values()) > 0.93
    assert max(scores.values()) <= 1


def test_islands_score_0():
    groups = shuffled((0.4, 0.6))
    scores = mixing_score(latent() + 50 * groups[:, None].astype(np.float32), groups)
    assert scores == {0: 0.0, 1: 0.0}


def test_one_island_beside_groups_that_mix_is_found():
    groups = shuffled((0.3, 0.3, 0.4))
    scores = mixing_score(latent() + 50 * (groups == 2)[:, None].astype(np.float32), groups)
    assert scores[2] == 0
    assert 0.3 < scores[0] < 0.8  # among the cells that are near, well mixed; of the island it has none
    assert 0.3 < scores[1] < 0.8


def test_the_nearer_the_groups_the_higher_the_score():
    groups = shuffled((0.5, 0.5))
    shifts = (0, 1, 2, 4, 8)
    scores = [mixing_score(latent() + shift * groups[:, None].astype(np.float32), groups)[0] for shift in shifts]
    assert scores == sorted(scores, reverse=True)


def test_a_group_that_is_everything_has_no_score():
    assert mixing_score(latent(), np.full(N_CELLS, 5)) == {}


@pytest.mark.parametrize("n_cells", [1, 2, 3, 10])
def test_few_cells_are_no_error(n_cells: int):
    scores = mixing_score(latent(n_cells), np.arange(n_cells) % 2)
    assert set(scores) <= {0, 1}
    assert all(0 <= score <= 1 for score in scores.values())


def test_cells_in_one_place_are_no_error():
    scores = mixing_score(np.zeros((100, 2), dtype=np.float32), np.arange(100) % 2)
    assert all(0 <= score <= 1 for score in scores.values())


def test_many_cells_are_sampled_and_the_seed_decides_which():
    n_cells = MOST_CELLS + 2000
    groups = shuffled((0.5, 0.5), n_cells)
    positions = latent(n_cells) + groups[:, None].astype(np.float32)
    first = mixing_score(positions, groups, seed=3)
    assert mixing_score(positions, groups, seed=3) == first
    assert mixing_score(positions, groups, seed=4) != first
    assert 0.1 < min(first.values()) < max(first.values()) < 0.9


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    mixing_score(latent(), shuffled((0.5, 0.5)))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
