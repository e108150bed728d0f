"""With `threshold` denoised values are sparse, and otherwise the same to the last bit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from scvi_pp import get, tl
from scvi_pp._backend import query
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import open_model
from tests.contract import assert_only_added, contents
from tests.fits import CHROMATIN, MODELS, fit, fragments, genes_of

pytestmark = pytest.mark.usefixtures("quiet")

OPTIONS = {
    "plain": {},
    "latent": {"library_size": "latent"},
    "draws": {"n_samples": 3, "rng": 2},
    "batches": {"transform_batch": ["b0", "b1"]},
    "draws and batches": {"n_samples": 2, "transform_batch": ["b0", "b1"], "library_size": "latent"},
}


def above(dense: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(dense >= np.float32(threshold), dense, np.float32(0))


def middle(dense: np.ndarray) -> float:
    """A threshold that leaves half of the values out."""
    return float(np.median(dense))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_values_are_those_of_the_table_and_small_ones_are_left_out(name: str, options: str):
    adata = fit(name)
    dense = get.denoised(adata, **OPTIONS[options]).to_numpy()
    threshold = middle(dense)
    sparse = get.denoised(adata, threshold=threshold, **OPTIONS[options])
    assert (type(sparse), sparse.dtype, sparse.shape) == (sp.csr_matrix, np.float32, dense.shape)
    assert sparse.has_canonical_format
    assert 0.4 < sparse.nnz / dense.size < 0.6
    assert sparse.data.min() >= np.float32(threshold)
    np.testing.assert_array_equal(sparse.toarray(), above(dense, threshold))


def test_means_are_taken_before_small_values_are_left_out():
    adata = fit("peakvi")
    single = [get.denoised(adata, transform_batch=batch).to_numpy() for batch in ("b0", "b1")]
    apart = np.unravel_index(np.abs(single[0] - single[1]).argmax(), single[0].shape)
    one, other = sorted(float(dense[apart]) for dense in single)
    threshold = (one + 3 * other) / 4  # the mean of these two is left out, one of the two is not
    found = get.denoised(adata, transform_batch=["b0", "b1"], threshold=threshold).toarray()
    near = np.isclose(sum(single) / 2, threshold, rtol=1e-5)  # rounding may decide there
    np.testing.assert_allclose(found[~near], above(sum(single) / 2, threshold)[~near], rtol=1e-5)
    assert not np.allclose(found, sum(above(dense, threshold) for dense in single) / 2)


@pytest.mark.parametrize("name", ["zinb", "peakvi", "poissonvi"])
def test_zero_is_a_threshold_and_keeps_every_value(name: str):
    adata = fit(name)
    sparse = get.denoised(adata, threshold=0)
    assert sp.issparse(sparse)
    np.testing.assert_array_equal(sparse.toarray(), get.denoised(adata))


def test_a_threshold_beyond_every_value_leaves_nothing():
    assert get.denoised(fit("peakvi"), threshold=1.5).nnz == 0


@pytest.mark.parametrize("name", ["zinb", "peakvi", "poissonvi"])
def test_columns_are_those_asked_for(name: str):
    adata = fit(name)
    chosen = [genes_of(name)[i] for i in (7, 0, 19, 7)]
    found = get.denoised(adata, genes=chosen, threshold=0, library_size="latent").toarray()
    np.testing.assert_array_equal(found, get.denoised(adata, genes=chosen, library_size="latent"))


@pytest.mark.parametrize("name", ["zinb", "peakvi", "poissonvi"])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_result_does_not_depend_on_how_much_is_made_at_once(name: str, batch_size: int | None, monkeypatch):
    adata = fit(name)
    options = {"n_samples": 3, "transform_batch": ["b0", "b1"], "batch_size": batch_size}
    expected = get.denoised(adata, threshold=0, **options)
    monkeypatch.setattr(query, "TILE_ENTRIES", 300)
    monkeypatch.setattr(query, "BLOCK_ENTRIES", 800)  # ten cells
    found = get.denoised(adata, threshold=0, **options)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-5)


# ---- as a layer


@pytest.mark.parametrize("name", ["some genes", "peakvi some regions", "poissonvi some regions"])
def test_layer_is_sparse_and_empty_where_nothing_was_modelled(name: str):
    adata = fit(name).copy()
    key = next(iter(key for key in ("scvi", "peakvi", "poissonvi") if key in adata.uns))
    dense = get.denoised(adata)
    before = contents(adata)
    assert tl.denoise(adata, threshold=middle(dense.to_numpy())) is None
    assert_only_added(before, adata, {f"layers[{key}_denoised]"})
    layer = adata.layers[f"{key}_denoised"]
    assert (type(layer), layer.dtype, layer.shape) == (sp.csr_matrix, np.float32, adata.shape)
    modelled = adata.var["chosen"].to_numpy()
    assert layer[:, ~modelled].nnz == 0
    np.testing.assert_array_equal(layer[:, modelled].toarray(), above(dense.to_numpy(), middle(dense.to_numpy())))


def test_layer_of_new_cells_has_its_columns_where_their_regions_are():
    adata, new = fit("peakvi"), fragments(30, 20, seed=4)[:, ::-1].copy()
    tl.denoise(adata, adata_new=new, threshold=0.2, normalize_cells=True)
    layer = new.layers["peakvi_denoised"]
    assert layer.has_canonical_format
    expected = get.denoised(adata, adata_new=new, normalize_cells=True)[list(new.var_names)]
    np.testing.assert_array_equal(layer.toarray(), above(expected.to_numpy(), 0.2))


def test_layer_of_some_regions_is_empty_elsewhere_and_a_name_given_twice_counts_once():
    adata = fit("peakvi").copy()
    tl.denoise(adata, regions=["region7", "region2", "region7"], threshold=0)
    layer = adata.layers["peakvi_denoised"]
    asked = adata.var_names.isin(["region2", "region7"])
    assert layer[:, ~asked].nnz == 0
    np.testing.assert_allclose(layer[:, asked].toarray(), get.denoised(adata)[["region2", "region7"]], rtol=1e-5)


def test_memory_is_the_result_and_a_tile(monkeypatch):
    """Far less than the dense layer, however many draws and batches there are. Beside the counts, which are read."""
    n_obs, n_vars, rows = 2000, 400, 50
    monkeypatch.setattr(query, "TILE_ENTRIES", rows * n_vars)
    monkeypatch.setattr(query, "BLOCK_ENTRIES", 4 * rows * n_vars)
    adata = fragments(100, n_vars)
    tl.peakvi(adata, batch_key="batch", max_epochs=1, n_hidden=8, n_latent=2, denoise=False, device="cpu")
    threshold = float(np.quantile(get.denoised(adata), 0.9))
    posterior = open_model(adata, None, verb="test", adata_new=fragments(n_obs, n_vars, seed=1)).posterior
    options = {"columns": None, "library_size": 1.0, "batches": [0, 1], "n_samples": 3}
    tracemalloc.start()
    found = posterior.denoised_above(threshold, n_columns=n_vars, **options)
    peak = tracemalloc.get_traced_memory()[1]  # numpy's and Python's; torch's own is that of a block
    tracemalloc.stop()
    result = sum(part.nbytes for part in (found.data, found.indices, found.indptr))
    dense, tile = 4 * n_obs * n_vars, 4 * rows * n_vars
    assert 0.02 < found.nnz / (n_obs * n_vars) < 0.3
    assert peak < 1.3 * result + 6 * tile < dense / 2


# ---- what cannot be


@pytest.mark.parametrize("threshold", [-0.1, np.nan, np.inf, "0.1", True, [0.1]], ids=str)
@pytest.mark.parametrize("ask", [get.denoised, tl.denoise], ids=["get", "tl"])
def test_what_is_no_threshold_is_refused(ask, threshold):
    with pytest.raises(InputError, match="threshold=.* must be a number of at least 0, or None"):
        ask(fit("peakvi"), threshold=threshold)
