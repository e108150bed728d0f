"""Statistics of draws against those of counts, and the ranks of counts among draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scvi_pp._backend import criticism

N_CELLS, N_GENES, N_DRAWS = 120, 40, 19


@pytest.fixture
def rate() -> np.ndarray:
    return np.random.default_rng(0).gamma(1.0, 1.0, (N_CELLS, N_GENES))


def compared(rate: np.ndarray, drawn_rate: np.ndarray, block: int = 50, n_draws: int = N_DRAWS):
    random = np.random.default_rng(1)
    counts = random.poisson(rate).astype(np.float32)
    draws = random.poisson(drawn_rate, (n_draws, N_CELLS, N_GENES)).astype(np.float32)
    found = criticism.compare_with_draws(csr_matrix(counts), lambda where: iter(draws[:, where]), block=block, seed=0)
    return counts, draws, found


def test_statistics_are_those_of_numpy(rate: np.ndarray):
    counts, draws, found = compared(rate, rate)
    for axis, measured, drawn in (
        (0, found.measured_genes, found.drawn_genes),
        (1, found.measured_cells, found.drawn_cells),
    ):
        np.testing.assert_allclose(measured.mean, counts.mean(axis), rtol=1e-6)
        np.testing.assert_allclose(measured.variance, counts.var(axis), rtol=1e-5)
        np.testing.assert_allclose(measured.zero_fraction, (counts == 0).mean(axis), rtol=1e-6)
        np.testing.assert_allclose(measured.cv, counts.std(axis) / counts.mean(axis), rtol=1e-5)
        of_draws = draws.var(1 + axis)
        np.testing.assert_allclose(drawn.variance, of_draws.mean(0), rtol=1e-5)
        np.testing.assert_allclose(drawn.cv, (np.sqrt(of_draws) / draws.mean(1 + axis)).mean(0), rtol=1e-5)


def test_blocks_make_no_difference_to_statistics(rate: np.ndarray):
    *_, whole = compared(rate, rate, block=1000)
    *_, parts = compared(rate, rate, block=7)
    for one, other in zip(whole.drawn_genes, parts.drawn_genes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0], ids=["mostly zeros", "small counts", "large counts"])
def test_coverage_of_the_truth_is_the_level(rate: np.ndarray, scale: float):
    """Of 4,800 ranks a share scatters by less than 0.008."""
    *_, found = compared(scale * rate, scale * rate)
    for level in (0.1, 0.5, 0.9):
        assert found.coverage(level) == pytest.approx(level, abs=0.02)
    assert found.coverage(1.0) == pytest.approx(1.0)


def test_a_model_that_scatters_too_little_covers_too_little(rate: np.ndarray):
    *_, found = compared(rate * 10, np.broadcast_to(rate.mean(0) * 10, rate.shape))
    assert found.coverage(0.5) < 0.35
    *_, shifted = compared(rate, rate * 1.5)
    assert shifted.rank_shares[: criticism.RANK_BINS // 2].sum() > 0.55


def test_genes_without_counts_have_no_coefficient_of_variation(rate: np.ndarray):
    rate[:, 3] = 0
    *_, found = compared(rate, rate)
    assert np.isnan(found.measured_genes.cv[3]) and np.isnan(found.drawn_genes.cv[3])
    assert np.isfinite(np.delete(found.drawn_genes.cv, 3)).all()
