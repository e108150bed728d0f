from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import assert_only_added, assert_same, contents
from tests.fits import MODELS, cells, fit, model_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("name", MODELS)
def test_layer_is_float32_and_nothing_else_is_written(name: str):
    adata = fit(name).copy()
    before = contents(adata)
    assert tl.denoise(adata) is None
    assert_only_added(before, adata, {f"layers[{model_of(name)}_denoised]"})
    layer = adata.layers[f"{model_of(name)}_denoised"]
    assert (type(layer), layer.dtype, layer.shape) == (np.ndarray, np.float32, adata.shape)


def test_default_layer_is_the_one_of_the_fit():
    adata = cells()
    tl.scvi(adata, batch_key="batch", max_epochs=2, n_hidden=4)
    of_fit = adata.layers["scvi_denoised"].copy()
    tl.denoise(adata)
    np.testing.assert_array_equal(adata.layers["scvi_denoised"], of_fit)
    np.testing.assert_allclose(of_fit.sum(1), 1, rtol=1e-5)


def test_copy_has_the_layer_and_the_object_has_not():
    adata = fit("zinb")
    before = contents(adata)
    copied = tl.denoise(adata, copy=True)
    assert_same(contents(adata), before)
    assert_only_added(before, copied, {"layers[scvi_denoised]"})


def test_key_names_the_model_and_key_added_the_layer():
    adata = cells()
    for seed, key in enumerate(("one", "two")):
        tl.scvi(adata, key_added=key, rng=seed, max_epochs=1, n_hidden=4, denoise=False)
        tl.denoise(adata, key=key)
        tl.denoise(adata, key=key, key_added=f"expression {key}")
        np.testing.assert_array_equal(adata.layers[f"{key}_denoised"], adata.layers[f"expression {key}"])
    assert not np.allclose(adata.layers["one_denoised"], adata.layers["two_denoised"])


def test_genes_not_asked_for_are_nan():
    adata = fit("zinb").copy()
    tl.denoise(adata)
    whole = adata.layers["scvi_denoised"].copy()
    chosen = ["gene7", "gene2"]
    tl.denoise(adata, genes=chosen)
    layer = adata.layers["scvi_denoised"]
    asked = adata.var_names.isin(chosen)
    np.testing.assert_allclose(layer[:, asked], whole[:, asked], rtol=1e-5)
    assert np.isnan(layer[:, ~asked]).all()


@pytest.mark.parametrize("n_samples", [None, 2])
def test_genes_outside_the_mask_are_nan(n_samples):
    adata = fit("some genes").copy()
    tl.denoise(adata, n_samples=n_samples)
    modelled = adata.var["chosen"].to_numpy()
    layer = adata.layers["scvi_denoised"]
    assert np.isnan(layer[:, ~modelled]).all()
    np.testing.assert_allclose(layer[:, modelled].sum(1), 1, rtol=1e-5)


def test_fit_writes_nan_outside_the_mask_too():
    adata = cells()
    tl.scvi(adata, mask_var="chosen", max_epochs=1, n_hidden=4)
    np.testing.assert_array_equal(np.isnan(adata.layers["scvi_denoised"]).all(0), ~adata.var["chosen"])


@pytest.mark.parametrize("size", [1, 1e4])
def test_rows_sum_to_the_library_size_in_any_number_of_batches(size: float):
    adata = fit("zinb").copy()
    for batches in (None, "b0", ["b0", "b1"], ["b1", "b1", "b0"]):
        tl.denoise(adata, library_size=size, transform_batch=batches)
        np.testing.assert_allclose(adata.layers["scvi_denoised"].sum(1), size, rtol=1e-4)


def test_new_cells_get_the_layer_and_the_fitted_object_stays():
    adata, new = fit("zinb"), cells(12, 26, seed=4)[:, ::-1].copy()
    before, before_new = contents(adata), contents(new)
    tl.denoise(adata, adata_new=new)
    assert_same(contents(adata), before)
    assert_only_added(before_new, new, {"layers[scvi_denoised]"})
    layer = new.layers["scvi_denoised"]
    known = new.var_names.isin(adata.var_names)
    assert np.isnan(layer[:, ~known]).all()
    expected = get.denoised(adata, adata_new=new)[new.var_names[known]]
    np.testing.assert_array_equal(layer[:, known], expected)


def test_copy_of_new_cells_is_returned():
    adata, new = fit("zinb"), cells(12, seed=4)
    before = contents(new)
    copied = tl.denoise(adata, adata_new=new, copy=True)
    assert_same(contents(new), before)
    assert_only_added(before, copied, {"layers[scvi_denoised]"})


def test_view_becomes_an_object_of_its_own_and_its_parent_stays():
    parent = fit("zinb").copy()
    before = contents(parent)
    view = parent[10:30]
    tl.denoise(view)
    assert not view.is_view
    assert_same(contents(parent), before)
    np.testing.assert_allclose(view.layers["scvi_denoised"], get.denoised(parent)[10:30], rtol=1e-4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=lambda error: error.__name__)
@pytest.mark.parametrize(
    "stage",
    [
        "scvi_pp._backend.query.Posterior.denoised",
        "scvi_pp._backend.models.scvi.Network.expression",
        "scvi_pp.tl._denoise.write",
    ],
)
def test_failure_leaves_the_object_as_it_was(stage: str, error: type, monkeypatch):
    adata = fit("zinb").copy()
    tl.denoise(adata)
    before = contents(adata)

    def fail(*_args, **_kwargs) -> None:
        raise error("injected")

    monkeypatch.setattr(stage, fail)
    with pytest.raises(error, match="injected"):
        tl.denoise(adata, library_size=7)
    assert_same(contents(adata), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "svci"}, r"uns has no key 'svci'\. Did you mean 'scvi'\?"),
        ({"genes": ["CD3E"]}, "genes names 'CD3E', which the model was not fitted to"),
        ({"genes": []}, "genes is empty"),
        ({"genes": 3}, "genes=3 must be the name of a gene or a list of names"),
        ({"library_size": 0}, "library_size=0 must be a positive number or 'latent'"),
        ({"library_size": "observed"}, "library_size='observed' must be a positive number or 'latent'"),
        ({"transform_batch": "b9"}, r"obs\['batch'\] has no level 'b9'.* Known: b0, b1"),
        ({"n_samples": 0}, "n_samples=0 must be a whole number of at least 1"),
        ({"batch_size": 0.5}, "batch_size=0.5 must be a whole number of at least 1"),
        ({"rng": -1}, "rng=-1 is no seed"),
        ({"key_added": "a/b"}, "key_added='a/b' cannot be a key"),
        ({"key_added": ""}, "key_added='' cannot be a key"),
        ({"adata_new": "new.h5ad"}, r"tl\.denoise takes an AnnData or a MuData, not str"),
        ({"adata_new": "new.h5ad", "copy": True}, r"tl\.denoise takes an AnnData or a MuData, not str"),
    ],
    ids=str,
)
def test_impossible_argument_is_refused(options: dict, message: str):
    adata = fit("zinb")
    before = contents(adata)
    with pytest.raises((InputError, MissingKeyError), match=message):
        tl.denoise(adata, **options)
    assert_same(contents(adata), before)


def test_unseen_batch_of_new_cells_is_named_and_they_are_left_alone():
    new = cells(10)
    new.obs["batch"] = "donor9"
    before = contents(new)
    with pytest.raises(InputError, match=r"'donor9', which the model has not seen.* Use tl.map_query"):
        tl.denoise(fit("zinb"), adata_new=new)
    assert_same(contents(new), before)


MEASURE = """
import resource, sys
import numpy as np, pandas as pd, scipy.sparse as sp, anndata as ad
import scvi_pp as svp

def cells(n_obs, n_vars=2000):
    rng = np.random.default_rng(0)
    per_cell = 20
    indices = np.sort(rng.integers(0, n_vars, (n_obs, per_cell)), axis=1).ravel().astype(np.int32)
    indptr = np.arange(0, n_obs * per_cell + 1, per_cell, dtype=np.int32)
    x = sp.csr_matrix((np.ones(n_obs * per_cell, np.float32), indices, indptr), shape=(n_obs, n_vars))
    x.sum_duplicates()
    batch = pd.Categorical.from_codes(np.arange(n_obs) % 4, list("abcd"))
    return ad.AnnData(x, obs=pd.DataFrame({"batch": batch}, index=np.arange(n_obs).astype(str)))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

svp.settings.verbosity = 0
fitted, new = cells(300), cells(int(sys.argv[1]))
svp.tl.scvi(fitted, batch_key="batch", max_epochs=1, denoise=False, device="cpu")
svp.tl.denoise(fitted, n_samples=2)
before = peak()
svp.tl.denoise(fitted, adata_new=new, n_samples=5, transform_batch=list("abcd"), library_size="latent")
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_is_the_layer_and_a_constant():
    """Nor draws nor batches add to it: the mean is kept running, straight in the layer."""
    above = {}
    for n_obs in (10_000, 40_000):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(n_obs)], capture_output=True, text=True, timeout=900, check=True
        )
        above[n_obs] = int(done.stdout) - 4 * n_obs * 2000
    constant = 250_000_000
    assert max(above.values()) < constant, above
    one_more_copy = 4 * 30_000 * 2000  # of what the layers differ by; the counts themselves are a tenth of it
    assert above[40_000] - above[10_000] < one_more_copy / 2, above
