"""The statistics of scvi-tools on the same draws, to the last digits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvi_pp._backend import differential

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

N_GENES, N_DRAWS = 100, 1500
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


@pytest.fixture(scope="module")
def draws() -> SimpleNamespace:
    """Expression of two populations, and counts in which some genes are not seen."""
    random = np.random.default_rng(0)
    a = random.gamma(1.0, 0.010, size=(N_DRAWS, N_GENES))
    b = random.gamma(1.0, 0.012, size=(N_DRAWS, N_GENES))
    counts = random.poisson(2.0, (60, N_GENES)).astype(np.float32)
    counts[:, :7] = 0
    counts[:, 7] = 0
    counts[-1, 7] = 1
    return SimpleNamespace(a=a, b=b, counts=counts, first=np.arange(60) < 30)


def peers_answer(draws: SimpleNamespace, **options: Any) -> dict[str, np.ndarray]:
    import scvi
    from scvi.model.base._differential import DifferentialComputation

    adata = ad.AnnData(draws.counts, obs=pd.DataFrame({"batch": ["a", "b"] * 30}, index=[str(i) for i in range(60)]))
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    manager = scvi.model.SCVI(adata).adata_manager
    waiting = iter([draws.a, draws.b])
    computation = DifferentialComputation(lambda *_, **__: next(waiting).copy(), None, manager)
    return computation.get_bayes_factors(draws.first, ~draws.first, use_observed_batches=True, **options)


def level(draws: SimpleNamespace) -> float:
    return max(
        differential.artefact_level(expression.max(0), draws.counts[cells].mean(0))
        for expression, cells in ((draws.a, draws.first), (draws.b, ~draws.first))
    )


def test_change(draws: SimpleNamespace):
    theirs = peers_answer(draws, mode="change", delta=0.25, cred_interval_lvls=[0.9])
    pseudocount = level(draws) / N_GENES  # scvi-tools divides by the number of genes
    np.testing.assert_allclose(theirs["pseudocounts"], pseudocount, **CLOSE)
    a, b = draws.a.T, draws.b.T
    ways = differential.directions(np.log2(a + pseudocount) - np.log2(b + pseudocount), 0.25)
    np.testing.assert_allclose(ways.either, theirs["proba_de"], **CLOSE)
    np.testing.assert_allclose(differential.log_odds(ways.either), theirs["bayes_factor"], **CLOSE)
    smaller = 1e-3 * pseudocount  # of which scvi-tools takes the summaries of the change
    change = np.log2(a + smaller) - np.log2(b + smaller)
    for name, values in differential.moments(change.copy()).items():
        np.testing.assert_allclose(values, theirs[f"lfc_{name}"], **CLOSE)
    low, high = differential.narrowest_interval(change, 0.9)
    np.testing.assert_allclose(low, theirs["lfc_confidence_interval_0.9_min"], **CLOSE)
    np.testing.assert_allclose(high, theirs["lfc_confidence_interval_0.9_max"], **CLOSE)


def test_vanilla(draws: SimpleNamespace):
    theirs = peers_answer(draws, mode="vanilla")
    first = (draws.a > draws.b).mean(0)
    np.testing.assert_allclose(first, theirs["proba_m1"], **CLOSE)
    np.testing.assert_allclose(differential.log_odds(first), theirs["bayes_factor"], **CLOSE)


@pytest.mark.parametrize("target", [0.01, 0.05, 0.2])
def test_calls(target: float):
    from scvi.model.base._de_core import _fdr_de_prediction

    probability = np.random.default_rng(1).beta(5, 1, 300)
    theirs = np.asarray(_fdr_de_prediction(pd.Series(probability), target))
    np.testing.assert_array_equal(differential.called(probability, target).is_called, theirs)


def test_delta_from_the_data():
    from scvi.model.base._differential import estimate_delta

    random = np.random.default_rng(0)
    means = np.concatenate([random.normal(m, 0.2, n) for m, n in ((0, 500), (2, 80), (-3, 80))])
    np.random.seed(0)  # noqa: NPY002 - scvi-tools draws from the global state
    theirs = estimate_delta(means)
    assert differential.delta_from(means, seed=0) == pytest.approx(theirs, rel=1e-3)
