from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scvi_pp import get
from tests.fits import MODELS, fit, genes_of

pytestmark = pytest.mark.usefixtures("quiet")
COUNTED = [name for name in MODELS if name != "normal"]


@pytest.mark.parametrize("name", COUNTED)
def test_draws_are_whole_counts(name: str):
    adata = fit(name)
    drawn = get.samples(adata)
    assert isinstance(drawn, sp.csr_matrix)
    assert drawn.dtype == np.float32
    assert drawn.shape == (adata.n_obs, len(genes_of(name)))
    assert (drawn.data > 0).all()
    np.testing.assert_array_equal(drawn.data, np.rint(drawn.data))


def test_draws_of_a_normal_model_are_real_numbers():
    drawn = get.samples(fit("normal")).toarray()
    assert np.isfinite(drawn).all()
    assert (drawn != np.rint(drawn)).all()


@pytest.mark.parametrize("name", ["zinb", "nb", "poisson", "normal", "latent library", "size factor", "gene-cell"])
def test_draws_have_the_mean_that_denoised_expression_and_losses_say(name: str):
    adata = fit(name)
    n_draws = 150
    drawn = np.stack([matrix.toarray() for matrix in get.samples(adata, n_samples=n_draws, rng=1)])
    mean = get.denoised(adata, n_samples=n_draws, rng=2).mul(get.library_size(adata), axis=0).to_numpy()
    dropout = get.likelihood_parameters(adata, n_samples=n_draws, rng=2).get("dropout")
    if dropout is not None:
        mean = mean * (1 - dropout.to_numpy())
    standard_error = np.sqrt(drawn.var(0).sum(0) / n_draws)
    tolerance = 5 * standard_error + 0.02 * mean.sum(0)  # E[share * kept] is not quite E[share] E[kept]
    assert (np.abs(drawn.mean(0).sum(0) - mean.sum(0)) < tolerance).all()


def test_several_draws_are_a_list_and_the_first_is_the_single_one():
    adata = fit("zinb")
    drawn = get.samples(adata, n_samples=3, rng=5)
    assert isinstance(drawn, list)
    assert len(drawn) == 3
    assert (drawn[0] != drawn[1]).nnz
    assert (drawn[0] != get.samples(adata, rng=5)).nnz == 0
    assert (drawn[0] != get.samples(adata, random_state=5)).nnz == 0
    assert (drawn[0] != get.samples(adata, rng=6)).nnz


def test_genes_are_columns_of_the_whole():
    adata = fit("zinb")
    chosen = ["gene7", "gene0"]
    whole = get.samples(adata, rng=1)
    assert (get.samples(adata, genes=chosen, rng=1) != whole[:, [7, 0]]).nnz == 0


@pytest.mark.parametrize("batch", ["b0", "b1", ["b0", "b1"]], ids=str)
def test_batch_of_a_draw_can_be_chosen(batch):
    adata = fit("poisson")
    n_draws = 150
    drawn = sum(get.samples(adata, n_samples=n_draws, transform_batch=batch)).toarray().sum(0) / n_draws
    options = {"library_size": "latent", "n_samples": n_draws}
    expected = get.denoised(adata, transform_batch=batch, **options).sum().to_numpy()
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected / n_draws) + 0.02 * expected).all()


def test_draws_of_several_batches_stay_counts():
    drawn = get.samples(fit("zinb"), transform_batch=["b0", "b1"])
    np.testing.assert_array_equal(drawn.data, np.rint(drawn.data))
