from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scvi_pp import get, tl
from scvi_pp._fitted_model import open_model
from tests.fits import MODELS, fit, genes_of, model_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("name", MODELS)
def test_table_is_cells_by_modelled_genes(name: str):
    adata = fit(name)
    table = get.denoised(adata)
    pd.testing.assert_index_equal(table.index, adata.obs_names)
    assert list(table.columns) == genes_of(name)
    assert set(table.dtypes) == {np.dtype("float32")}
    assert (table.to_numpy() >= 0).all()


@pytest.mark.parametrize("n_samples", [None, 3])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "size factor"])
def test_rows_sum_to_the_library_size(name: str, n_samples: int | None):
    for size in (1, 1e4):
        total = get.denoised(fit(name), library_size=size, n_samples=n_samples).sum(axis=1)
        np.testing.assert_allclose(total, size, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_latent_library_is_that_of_the_cell(name: str):
    adata = fit(name)
    expected = get.denoised(adata).mul(get.library_size(adata), axis=0)
    np.testing.assert_allclose(get.denoised(adata, library_size="latent"), expected, rtol=1e-4)


def test_size_factor_models_give_expression_per_unit_of_it():
    adata = fit("size factor")
    per_unit = get.denoised(adata)
    np.testing.assert_allclose(get.denoised(adata, library_size=3), 3 * per_unit, rtol=1e-5)
    assert not np.allclose(per_unit.sum(axis=1), 1)
    expected = per_unit.mul(adata.obs["size"], axis=0)
    np.testing.assert_allclose(get.denoised(adata, library_size="latent"), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"transform_batch": "b1"}, {"n_samples": 2}, {"library_size": "latent"}], ids=str
)
def test_genes_are_columns_of_the_whole(options: dict):
    adata = fit("zinb")
    whole = get.denoised(adata, **options)
    chosen = ["gene7", "gene0", "gene19"]
    pd.testing.assert_frame_equal(get.denoised(adata, genes=chosen, **options), whole[chosen])
    pd.testing.assert_frame_equal(get.denoised(adata, genes="gene7", **options), whole[["gene7"]])
    pd.testing.assert_frame_equal(get.denoised(adata, genes=pd.Index(chosen), **options), whole[chosen])


@pytest.mark.parametrize("name", MODELS)
def test_own_batch_is_the_default(name: str):
    adata = fit(name)
    own = get.denoised(adata)
    for batch in ("b0", "b1"):
        moved = get.denoised(adata, transform_batch=batch)
        there = adata.obs["batch"] == batch
        np.testing.assert_allclose(moved[there], own[there], rtol=1e-4)
        assert not np.allclose(moved[~there], own[~there], rtol=1e-3)


@pytest.mark.parametrize("size", [1.0, 1e4, "latent"])
def test_several_batches_give_the_mean_of_the_singles(size):
    """Rows still sum to the library size: it is applied once, not once for each batch."""
    adata = fit("zinb")
    single = [get.denoised(adata, transform_batch=batch, library_size=size) for batch in ("b0", "b1")]
    both = get.denoised(adata, transform_batch=["b0", "b1"], library_size=size)
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, rtol=1e-5)
    np.testing.assert_allclose(get.denoised(adata, transform_batch=["b1"], library_size=size), single[1], rtol=1e-6)


@pytest.mark.parametrize(
    "several",
    [("b0", "b1"), np.array(["b0", "b1"]), pd.Index(["b0", "b1"])],
    ids=lambda several: type(several).__name__,
)
def test_several_batches_may_come_in_any_collection(several):
    adata = fit("zinb")
    expected = get.denoised(adata, transform_batch=["b0", "b1"])
    np.testing.assert_array_equal(get.denoised(adata, transform_batch=several), expected)
    categories = adata.obs["batch"].cat.categories
    np.testing.assert_array_equal(get.denoised(adata, transform_batch=categories), expected)


@pytest.mark.parametrize("name", MODELS)
def test_mean_over_draws_is_that_of_the_decoded_draws(name: str):
    adata = fit(name)
    n_samples = 5
    model = open_model(adata, model_of(name), verb="test")
    cells = model.posterior.cells.minibatch(torch.arange(adata.n_obs))
    draws = torch.tensor(get.latent(adata, kind="sample", n_samples=n_samples, rng=3))
    model.posterior.network.eval()
    with torch.no_grad():
        decoded = np.stack([model.posterior.network.expression(z, cells).numpy() for z in draws])
    for n in (1, n_samples):
        found = get.denoised(adata, n_samples=n, rng=3)
        np.testing.assert_allclose(found, decoded[:n].mean(0), rtol=1e-4)


def test_draws_follow_the_seed_and_not_the_batch_size():
    adata = fit("zinb")
    found = get.denoised(adata, n_samples=2, rng=1)
    np.testing.assert_array_equal(found, get.denoised(adata, n_samples=2, random_state=1))
    np.testing.assert_allclose(found, get.denoised(adata, n_samples=2, rng=1, batch_size=7), rtol=1e-4)
    assert not np.allclose(found, get.denoised(adata, n_samples=2, rng=2))
    np.testing.assert_allclose(get.denoised(adata), get.denoised(adata, batch_size=7, rng=9), rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_table_is_the_layer(name: str):
    adata = fit(name).copy()
    options = {"library_size": "latent", "transform_batch": ["b0", "b1"], "n_samples": 2, "rng": 4}
    tl.denoise(adata, **options)
    layer = pd.DataFrame(adata.layers[f"{model_of(name)}_denoised"], index=adata.obs_names, columns=adata.var_names)
    np.testing.assert_array_equal(layer[genes_of(name)], get.denoised(adata, **options))
