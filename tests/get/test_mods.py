"""Several modalities asked about at once, `mod=[...]`: at the same positions, with noise of their own."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import open_models
from tests.contract import QUICK
from tests.studies import Judge, seeds

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:The inplace keyword:FutureWarning"),
]

BOTH = ["rna", "protein"]
N_CELLS, N_GENES, N_PROTEINS = 80, 20, 5


@cache
def fitted(model: str = "totalvi") -> MuData:
    """Not to be written to."""
    mdata = svp.datasets.simulate_multiome(N_CELLS, N_GENES, n_regions=15, n_proteins=N_PROTEINS, rng=0)
    with svp.settings.override(verbosity=0):
        getattr(tl, model)(mdata, **{**QUICK, "max_epochs": 3}, batch_key="batch")
    return mdata


@pytest.mark.parametrize("model", ["totalvi", "multivi"])
def test_draws_of_several_are_by_name_and_of_the_first_as_if_it_were_alone(model: str):
    drawn: Any = get.samples(fitted(model), mod=BOTH, rng=3)
    assert {name: draw.shape for name, draw in drawn.items()} == {
        "rna": (N_CELLS, N_GENES),
        "protein": (N_CELLS, N_PROTEINS),
    }
    assert (drawn["rna"] != get.samples(fitted(model), mod="rna", rng=3)).nnz == 0
    several: Any = get.samples(fitted(model), mod=BOTH, rng=3, n_samples=2)
    assert [len(draws) for draws in several.values()] == [2, 2]
    assert (several["protein"][0] != drawn["protein"]).nnz == 0


def test_positions_are_shared_and_noise_is_not():
    """The second modality, asked about as the first, would show what it shares."""
    models = open_models(fitted(), None, verb="x", mod=BOTH, seed=4)
    alone = open_models(fitted(), None, verb="x", mod="protein", seed=4)["protein"].posterior
    beside = models["protein"].posterior
    np.testing.assert_array_equal(beside.latent_samples(2), models["rna"].posterior.latent_samples(2))
    np.testing.assert_array_equal(beside.latent_samples(2), alone.latent_samples(2))
    one, other = (each.predictive(1, columns=None, batches=None)[0].toarray() for each in (alone, beside))
    assert not np.array_equal(one, other)
    # two draws of the same counts at the same positions: what is left of a gene's counts when its mean is gone
    one, other = one - one.mean(0), other - other.mean(0)
    expected = get.denoised(fitted(), mod="protein", include_background=True).to_numpy()
    residuals = [(each - (expected - expected.mean(0))).ravel() / expected.std() for each in (one, other)]
    assert abs(np.corrcoef(residuals)[0, 1]) < 0.3


def test_one_table_holds_the_correlations_of_each_and_between_them():
    mdata = fitted()
    both = get.feature_correlation(mdata, mod=BOTH, rng=1, n_samples=4)
    assert list(both.index) == [*mdata["rna"].var_names, *mdata["protein"].var_names]
    of_rna = get.feature_correlation(mdata, mod="rna", rng=1, n_samples=4)
    np.testing.assert_allclose(both.iloc[:N_GENES, :N_GENES], of_rna, atol=1e-5)
    np.testing.assert_allclose(both, both.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(both), 1, rtol=1e-5)


def test_features_of_each_are_chosen_by_their_kind():
    mdata = fitted()
    found = get.feature_correlation(mdata, mod=BOTH, genes=["gene3", "gene1"], proteins="protein2", n_samples=2)
    assert list(found.columns) == ["gene3", "gene1", "protein2"]
    drawn: Any = get.samples(mdata, mod=["protein", "rna"], proteins=["protein4"])
    assert {name: draw.shape[1] for name, draw in drawn.items()} == {"protein": 1, "rna": N_GENES}
    assert get.samples(mdata, mod="protein", proteins=["protein4", "protein1"]).shape == (N_CELLS, 2)


def test_features_that_share_a_name_are_told_apart():
    mdata = svp.datasets.simulate_multiome(N_CELLS, N_GENES, n_regions=15, n_proteins=N_PROTEINS, rng=0)
    mdata["protein"].var_names = [f"gene{i}" for i in range(1, N_PROTEINS + 1)]
    with warnings.catch_warnings(action="ignore"):  # mudata says that names are not unique
        mdata.update()
    tl.totalvi(mdata, **QUICK)
    found = get.feature_correlation(mdata, mod=BOTH, genes=["gene2"], proteins=["gene2"], n_samples=1)
    assert list(found.columns) == ["rna:gene2", "protein:gene2"]


@pytest.mark.slow
def test_draws_of_both_correlate_as_genes_and_proteins_do_in_the_data(judge: Judge):
    """Cells of one type have much of a gene and of a protein."""
    of_draws, of_denoised = [], []
    for seed in seeds(1):
        mdata = svp.datasets.simulate_multiome(800, 100, n_regions=15, n_proteins=12, rng=seed)
        tl.totalvi(mdata, batch_key="batch", denoise=False, max_epochs=60, rng=seed)
        drawn: Any = get.samples(mdata, mod=BOTH, rng=seed)
        measured = _between(*(mdata[name].X.toarray() for name in BOTH))
        again = _between(*(drawn[name].toarray() for name in BOTH))
        denoised = get.feature_correlation(mdata, mod=BOTH, method="pearson").iloc[:100, 100:].to_numpy()
        seen = np.isfinite(measured) & np.isfinite(again)  # a rare gene may not be drawn at all
        of_draws.append(np.corrcoef(measured[seen], again[seen])[0, 1])
        of_denoised.append(np.corrcoef(measured[seen], denoised[seen])[0, 1])
    judge("totalvi: correlations of genes with proteins, data and draws", of_draws, above=0.5)
    judge("totalvi: correlations of genes with proteins, data and denoised", of_denoised, above=0.5)


def _between(genes: np.ndarray, proteins: np.ndarray) -> np.ndarray:
    """Correlations of shares of genes with logs of proteins, (genes, proteins)."""
    shares = genes / genes.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # of a gene without any count
        return np.corrcoef(shares.T, np.log1p(proteins).T)[: genes.shape[1], genes.shape[1] :]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mod": ["rna", "rna"]}, "mod names a modality twice: 'rna', 'rna'"),
        ({"mod": ["rna", "surface"]}, "mod='surface' is no modality of uns\\['totalvi'\\]"),
        ({"mod": []}, "must be the name of a modality, or a list of names"),
        ({"mod": 3}, "must be the name of a modality, or a list of names"),
        ({"mod": BOTH, "regions": "chr1"}, "regions are named, and genes, proteins are asked about"),
        ({"mod": "rna", "proteins": "protein1"}, "proteins names proteins, and genes of uns\\['totalvi'\\]"),
        ({"mod": "protein", "genes": "a", "proteins": "b"}, "Give genes or proteins, not both"),
        ({"mod": BOTH, "proteins": "protein9"}, "proteins names 'protein9', which the model was not fitted to"),
    ],
)
@pytest.mark.parametrize("ask", [get.samples, get.feature_correlation])
def test_what_cannot_be_asked_is_said(ask: Any, options: dict[str, Any], match: str):
    with pytest.raises(InputError, match=match):
        ask(fitted(), **options)
