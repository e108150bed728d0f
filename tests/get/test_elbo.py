"""get.elbo, get.reconstruction_error and get.marginal_log_likelihood: how well cells are explained."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scvi_pp import get, tl
from tests.fits import CHROMATIN, MODELS, OPTIONS, cells, fit, model_of
from tests.studies import Judge, seeds

pytestmark = pytest.mark.usefixtures("quiet")
ASKED = [get.elbo, get.reconstruction_error, get.marginal_log_likelihood]


@pytest.mark.parametrize("ask", ASKED, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_answer_is_a_number_and_the_mean_over_cells(name: str, ask):
    adata = fit(name)
    whole = ask(adata, n_samples=2)
    assert type(whole) is float
    per_cell = ask(adata, n_samples=2, per_cell=True)
    assert isinstance(per_cell, pd.Series)
    assert per_cell.name == ask.__name__
    pd.testing.assert_index_equal(per_cell.index, adata.obs_names)
    assert np.isfinite(per_cell).all()
    assert per_cell.mean() == pytest.approx(whole)


@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_elbo_is_below_the_marginal_and_rises_to_it_with_the_draws(name: str):
    adata = fit(name)
    bound, few, many = (
        get.elbo(adata, n_samples=60),
        get.marginal_log_likelihood(adata, n_samples=5),
        get.marginal_log_likelihood(adata, n_samples=60),
    )
    noise = 0.02 * abs(bound) ** 0.5
    assert bound < few + noise
    assert few < many + noise
    if name != "poisson":  # the bound may be nearly tight
        assert bound < many


@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_elbo_is_reconstruction_less_a_divergence(name: str):
    adata = fit(name)
    # that of scANVI is itself a mean over draws
    asked = {"per_cell": True, "rng": 1, "n_samples": 200 if model_of(name) == "scanvi" else 1}
    divergence = -get.reconstruction_error(adata, **asked) - get.elbo(adata, **asked)
    assert (divergence > 0).all()


def test_answers_follow_the_seed_and_settle_with_the_draws():
    adata = fit("zinb")
    for ask in ASKED:
        assert ask(adata, n_samples=3, rng=1) == ask(adata, n_samples=3, random_state=1)
        assert ask(adata, n_samples=3, rng=1) != ask(adata, n_samples=3, rng=2)
    few, many = (np.std([get.elbo(adata, n_samples=n, rng=seed) for seed in range(8)]) for n in (1, 30))
    assert many < few


def test_cells_of_another_kind_are_explained_worse():
    adata = fit("zinb")
    strange = cells()
    strange.X = strange.X[:, ::-1].copy()
    for ask, better in ((get.elbo, 1), (get.marginal_log_likelihood, 1), (get.reconstruction_error, -1)):
        options = {"n_samples": 20}
        assert better * ask(adata, **options) > better * ask(adata, adata_new=strange, **options)


def test_held_out_elbo_of_the_history_is_what_is_asked_for(judge: Judge):
    """The same cells, the kept weights, other draws: the same number within what a single draw of each cell scatters by.

    The history keeps the largest of four epochs, so it lies above by some of these standard deviations at most.
    """
    adata, seed = cells(), seeds(1)[0]
    tl.scvi(adata, **OPTIONS, rng=seed)
    history = get.history(adata)
    assert "elbo_validation" in history
    held_out = np.random.default_rng(seed).permutation(adata.n_obs)[:6]
    new = adata[np.sort(held_out)]
    single = np.std([get.elbo(adata, adata_new=new, n_samples=1, rng=draw) for draw in range(20)])
    off = history["elbo_validation"].max() - get.elbo(adata, adata_new=new, n_samples=200, rng=seed)
    judge("held-out ELBO of the history, in standard deviations of single draws", off / single, above=-6, below=6)
