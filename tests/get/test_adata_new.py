"""New cells are answered for without training, their genes found by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvi_pp import get
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import assert_same, contents
from tests.fits import CHROMATIN, MODELS, cells, fit, like

pytestmark = pytest.mark.usefixtures("quiet")

ASK: dict[str, Callable[..., Any]] = {
    "latent": get.latent,
    "draws": lambda adata, **new: get.latent(adata, kind="sample", n_samples=2, **new),
    "denoised": lambda adata, **new: get.denoised(adata, library_size="latent", n_samples=2, **new),
    "samples": lambda adata, **new: get.samples(adata, **new).toarray(),
    "likelihood_parameters": lambda adata, **new: pd.concat(get.likelihood_parameters(adata, **new), axis=1),
    "library_size": get.library_size,
    "feature_correlation": get.feature_correlation,
    "elbo": lambda adata, **new: get.elbo(adata, per_cell=True, **new),
    "reconstruction_error": lambda adata, **new: get.reconstruction_error(adata, per_cell=True, **new),
    "marginal_log_likelihood": lambda adata, **new: get.marginal_log_likelihood(
        adata, per_cell=True, n_samples=5, **new
    ),
}


def rearranged(adata: ad.AnnData) -> ad.AnnData:
    """The same cells, genes in another order among others, and nothing that a fit wrote."""
    others = cells(adata.n_obs, 7, seed=5)
    layers = {
        name: sp.hstack([others.layers[name], adata.layers[name]], format="csr") for name in ("counts", "lognorm")
    }
    var = pd.DataFrame(index=[*(f"other{i}" for i in range(7)), *adata.var_names])
    both = ad.AnnData(layers["counts"], obs=adata.obs, var=var, layers=layers)
    return both[:, np.random.default_rng(0).permutation(both.n_vars)].copy()


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_same_cells_with_genes_in_another_order_get_the_same_answer(name: str, ask: str):
    adata = fit(name)
    np.testing.assert_array_equal(ASK[ask](adata, adata_new=rearranged(adata)), ASK[ask](adata))


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("name", ["zinb", "covariates", "embedding", "peakvi", "poissonvi"])
def test_asking_writes_nothing(name: str, ask: str):
    adata, new = fit(name), like(name, 20, seed=3)
    before = contents(adata), contents(new)
    ASK[ask](adata)
    ASK[ask](adata, adata_new=new)
    view = new[:10]
    ASK[ask](adata, adata_new=view)
    assert view.is_view
    assert_same(contents(adata), before[0])
    assert_same(contents(new), before[1])


@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_new_cells_are_named_in_the_answer(name: str):
    new = like(name, 15, seed=3)
    new.obs_names = [f"new{i}" for i in range(15)]
    table = get.denoised(fit(name), adata_new=new)
    pd.testing.assert_index_equal(table.index, new.obs_names)
    assert get.latent(fit(name), adata_new=new).shape == (15, 2)


@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_one_cell_can_be_asked_about(name: str):
    adata = fit(name)
    for ask in (get.latent, get.denoised, get.library_size):
        alone, whole = np.asarray(ask(adata, adata_new=adata[3])), np.asarray(ask(adata))
        np.testing.assert_allclose(alone, whole[[3]], rtol=1e-4, atol=2e-6)


def test_cells_of_one_batch_keep_their_code():
    adata = fit("embedding")
    there = (adata.obs["batch"] == "b1").to_numpy()
    only = adata[there].copy()
    only.obs["batch"] = "b1"  # text, and b0 is not there at all
    np.testing.assert_allclose(get.denoised(adata, adata_new=only), get.denoised(adata)[there], rtol=1e-4)


def test_covariates_are_scaled_as_at_the_fit():
    adata = fit("encoded covariates")
    some = adata[:5]
    np.testing.assert_allclose(get.latent(adata, adata_new=some), get.latent(adata)[:5], atol=2e-6)


# ---- what cannot be answered


@pytest.mark.parametrize("ask", ASK)
def test_missing_genes_are_named(ask: str):
    with pytest.raises(InputError, match=r"var_names lacks 3 of the model's 20 features: gene0, gene1, gene2\."):
        ASK[ask](fit("zinb"), adata_new=cells()[:, 3:])


@pytest.mark.parametrize("ask", ASK)
def test_unseen_batch_is_named_with_the_verb_that_adds_one(ask: str):
    new = cells(10)
    new.obs["batch"] = "donor9"
    message = r"obs\['batch'\] holds 'donor9', which the model has not seen\. Known: b0, b1\. Use tl\.map_query"
    with pytest.raises(InputError, match=message):
        ASK[ask](fit("zinb"), adata_new=new)


def test_unseen_covariate_is_named():
    new = cells(10)
    new.obs["site"] = "elsewhere"
    with pytest.raises(InputError, match=r"obs\['site'\] holds 'elsewhere', which the model has not seen"):
        get.latent(fit("covariates"), adata_new=new)


@pytest.mark.parametrize(
    ("name", "column"), [("zinb", "batch"), ("covariates", "sex"), ("covariates", "mito"), ("size factor", "size")]
)
def test_missing_column_is_named(name: str, column: str):
    new = cells(10)
    del new.obs[column]
    with pytest.raises(MissingKeyError, match=f"obs has no column '{column}'"):
        get.latent(fit(name), adata_new=new)


def test_missing_layer_is_named():
    new = cells(10)
    del new.layers["lognorm"]
    with pytest.raises(MissingKeyError, match="adata has no layer 'lognorm'"):
        get.latent(fit("normal"), adata_new=new)


def test_values_of_new_cells_are_checked():
    new = cells(10)
    new.X = new.layers["lognorm"]
    with pytest.raises(
        InputError, match=r"looks log-normalised, .* pass layer='counts'|layers\['counts'\] holds counts"
    ):
        get.latent(fit("zinb"), adata_new=new)


def test_counts_that_were_normalised_since_the_fit_are_recognised():
    adata = fit("zinb").copy()
    adata.X = adata.layers["lognorm"]
    with pytest.raises(
        InputError, match=r"get\.latent reads adata as the fit did, but X holds .*has it changed since\?"
    ):
        get.latent(adata)


def test_what_is_no_anndata_is_refused():
    with pytest.raises(InputError, match=r"get\.latent takes an AnnData, not str"):
        get.latent(fit("zinb"), adata_new="new.h5ad")
