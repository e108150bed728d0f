"""Densities of samples in the latent space, by definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm, t

from scvi_pp._backend import densities


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    random = np.random.default_rng(0)
    mean, variance = random.normal(size=(40, 3)), random.gamma(2.0, 0.1, size=(40, 3))
    return mean, variance, [np.arange(0, 15), np.arange(15, 40)]


def by_definition(mean, variance, samples, dof, *, without_own: bool) -> np.ndarray:
    out = np.empty((len(mean), len(samples)))
    for i, z in enumerate(mean):
        for s, rows in enumerate(samples):
            members = [n for n in rows if not (without_own and n == i)]
            kernel = norm if dof is None else t(dof)
            of_each = [
                sum(kernel.logpdf((z - mean[n]) / np.sqrt(variance[n])) - 0.5 * np.log(variance[n])) for n in members
            ]
            out[i, s] = logsumexp(of_each) - np.log(len(members))
    return out


@pytest.mark.parametrize("dof", [None, 3.0])
@pytest.mark.parametrize("without_own", [False, True])
@pytest.mark.parametrize("most_pairs", [50, 10**6])
def test_log_densities_are_those_of_the_mixture(cells, dof, without_own: bool, most_pairs: int, monkeypatch):
    monkeypatch.setattr(densities, "MOST_PAIRS", most_pairs)
    monkeypatch.setattr(densities, "MOST_PAIRS_BY_DIMENSION", most_pairs)
    mean, variance, samples = cells
    own = np.arange(40) if without_own else None
    found = densities.log_densities(mean, mean, variance, samples, dof=dof, own_rows=own)
    np.testing.assert_allclose(found, by_definition(mean, variance, samples, dof, without_own=without_own), rtol=1e-9)


def test_narrow_posteriors_far_from_the_origin_keep_their_digits():
    random = np.random.default_rng(1)
    mean = (random.normal(size=(30, 5)) + 20).astype(np.float32)
    variance = np.full((30, 5), 1e-3, dtype=np.float32)
    found = densities.log_densities(mean, mean, variance, [np.arange(30)])
    as_double = mean.astype(float), variance.astype(float)
    expected = by_definition(*as_double, [np.arange(30)], None, without_own=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_log_ratio_is_of_mean_densities():
    log_density = np.log(np.array([[1.0, 3.0, 1.0, 1.0], [2.0, 2.0, 8.0, 8.0]]))
    first = np.array([True, True, False, False])
    np.testing.assert_allclose(densities.log_ratio(log_density, first, ~first), np.log([2.0, 0.25]))


def test_p_values_of_the_same_samples_are_uniform():
    random = np.random.default_rng(2)
    first = np.array([True] * 4 + [False] * 4)
    p = densities.welch(random.normal(size=(4000, 8)), first, ~first)
    np.testing.assert_allclose(np.quantile(p, [0.05, 0.25, 0.5, 0.75]), [0.05, 0.25, 0.5, 0.75], atol=0.03)
