from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scvi_pp import get
from tests.fits import MODELS, fit, genes_of, model_of

pytestmark = pytest.mark.usefixtures("quiet")

EXPECTED = {
    "zinb": {"mean", "dispersion", "dropout"},
    "nb": {"mean", "dispersion"},
    "poisson": {"mean"},
    "normal": {"mean", "standard_deviation"},
}


@pytest.mark.parametrize("name", MODELS)
def test_each_likelihood_has_its_parameters(name: str):
    adata = fit(name)
    likelihood = adata.uns[model_of(name)]["params"]["gene_likelihood"]
    parameters = get.likelihood_parameters(adata)
    assert set(parameters) == EXPECTED[likelihood]
    for table in parameters.values():
        pd.testing.assert_index_equal(table.index, adata.obs_names)
        assert list(table.columns) == genes_of(name)
        assert set(table.dtypes) == {np.dtype("float32")}
        assert (table.to_numpy() > 0).all()
    if "dropout" in parameters:
        assert (parameters["dropout"].to_numpy() < 1).all()


@pytest.mark.parametrize("name", MODELS)
def test_mean_is_denoised_expression_at_the_library_of_the_cell(name: str):
    adata = fit(name)
    mean = get.likelihood_parameters(adata)["mean"]
    np.testing.assert_allclose(mean, get.denoised(adata, library_size="latent"), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "same_within"), [("zinb", None), ("nb", None), ("gene-batch", "batch"), ("gene-label", "type")]
)
def test_dispersion_differs_between_the_groups_it_was_asked_for(name: str, same_within: str | None):
    adata = fit(name)
    dispersion = get.likelihood_parameters(adata)["dispersion"]
    groups = np.zeros(adata.n_obs) if same_within is None else adata.obs[same_within].to_numpy()
    of_groups = dispersion.groupby(groups)
    assert (of_groups.nunique() == 1).all(axis=None)
    if same_within is not None:
        assert (of_groups.first().nunique() == 2).mean() > 0.8


def test_dispersion_of_each_cell_differs_between_cells():
    assert (get.likelihood_parameters(fit("gene-cell"))["dispersion"].nunique() > 10).all()


def test_genes_are_columns_of_the_whole():
    adata = fit("zinb")
    whole, chosen = get.likelihood_parameters(adata), get.likelihood_parameters(adata, genes=["gene3", "gene1"])
    for name, table in whole.items():
        pd.testing.assert_frame_equal(chosen[name], table[["gene3", "gene1"]])


def test_mean_over_draws_follows_the_seed():
    adata = fit("zinb")
    found = get.likelihood_parameters(adata, n_samples=4, rng=1)
    again = get.likelihood_parameters(adata, n_samples=4, rng=1)
    other = get.likelihood_parameters(adata, n_samples=4, rng=2)
    expected = get.denoised(adata, n_samples=4, rng=1, library_size="latent")
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-4)
    for name in found:
        np.testing.assert_array_equal(found[name], again[name])
    assert not np.allclose(found["mean"], other["mean"])
    np.testing.assert_allclose(found["dispersion"], other["dispersion"], rtol=1e-5)
