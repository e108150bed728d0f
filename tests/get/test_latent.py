from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from scvi_pp import get
from tests.fits import MODELS, fit, model_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("name", MODELS)
def test_mean_is_what_the_fit_wrote(name: str):
    adata = fit(name)
    latent = get.latent(adata)
    assert latent.dtype == np.float32
    np.testing.assert_array_equal(latent, adata.obsm[f"X_{model_of(name)}"])


@pytest.mark.parametrize("name", MODELS)
def test_draws_scatter_about_the_mean_as_the_distribution_says(name: str):
    adata = fit(name)
    n_draws = 400
    draws = get.latent(adata, kind="sample", n_samples=n_draws)
    assert draws.shape == (n_draws, *adata.obsm[f"X_{model_of(name)}"].shape)
    assert draws.dtype == np.float32
    mean, variance = get.latent(adata, kind="distribution")
    assert mean.shape == variance.shape == adata.obsm[f"X_{model_of(name)}"].shape
    assert (variance > 0).all()
    if name.endswith("simplex"):
        np.testing.assert_allclose(draws.sum(-1), 1, rtol=1e-5)
        assert (draws >= 0).all()
        mean, variance = adata.obsm[f"X_{model_of(name)}"], draws.var(0)
    standardised = (draws.mean(0) - mean) / np.sqrt(variance / n_draws)
    assert np.abs(standardised).max() < 5
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.5)


def test_mean_of_a_simplex_is_on_it_and_no_softmax_of_the_mean():
    adata = fit("simplex")
    latent = get.latent(adata)
    np.testing.assert_allclose(latent.sum(1), 1, rtol=1e-5)
    mean, _ = get.latent(adata, kind="distribution")
    assert np.abs(latent - softmax(mean, axis=1)).max() > 1e-3


def test_one_draw_is_the_first_of_many():
    adata = fit("zinb")
    one = get.latent(adata, kind="sample", rng=3)
    assert one.shape == adata.obsm["X_scvi"].shape
    np.testing.assert_array_equal(one, get.latent(adata, kind="sample", n_samples=3, rng=3)[0])


def test_draws_follow_the_seed_and_not_the_batch_size():
    adata = fit("zinb")
    draws = [get.latent(adata, kind="sample", **{argument: 5}) for argument in ("rng", "random_state")]
    np.testing.assert_array_equal(*draws)
    assert not np.allclose(draws[0], get.latent(adata, kind="sample", rng=6))
    np.testing.assert_allclose(draws[0], get.latent(adata, kind="sample", rng=5, batch_size=7), atol=2e-6)
    again = get.latent(adata, kind="sample", rng=np.random.default_rng(5))
    np.testing.assert_array_equal(again, get.latent(adata, kind="sample", rng=np.random.default_rng(5)))
