"""tl.denoise of a modality, as a layer of its own cells or as a new modality of all cells."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data import write
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError
from tests.contract import QUICK

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:Cannot join columns with the same name:UserWarning"),
    pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning"),
]


@cache
def _fitted() -> MuData:
    mdata = svp.datasets.simulate_multiome(60, 20, n_regions=40, rna_only=0.2, atac_only=0.3)
    tl.multivi(mdata, batch_key="batch", denoise=False, **QUICK)
    return mdata


def fitted() -> MuData:
    return copied(_fitted())


def test_a_new_modality_has_the_values_of_all_cells():
    mdata = fitted()
    before = copy.deepcopy({"obs": mdata.obs, "names": mdata.obs_names, "rna": dict(mdata["rna"].layers)})
    assert tl.denoise(mdata, mod="rna", mod_added="imputed", library_size=1e4) is None
    imputed = mdata["imputed"]
    assert imputed.obs_names.equals(mdata.obs_names) and imputed.X.dtype == np.float32
    np.testing.assert_array_equal(imputed.X, get.denoised(mdata, mod="rna", library_size=1e4))
    assert list(imputed.var["mean"]) == list(mdata["rna"].var["mean"])
    assert mdata.obs.equals(before["obs"]) and mdata.obs_names.equals(before["names"])
    assert set(mdata["rna"].layers) == set(before["rna"])
    rows = np.asarray(mdata.obsmap["imputed"]).ravel()
    np.testing.assert_array_equal(rows, 1 + np.arange(mdata.n_obs))


def test_it_holds_the_features_that_were_asked_for_and_may_be_sparse():
    mdata = fitted()
    regions = [str(mdata["atac"].var_names[i]) for i in (7, 2, 11)]
    tl.denoise(mdata, mod="atac", regions=regions, threshold=0.2, mod_added="open")
    assert set(mdata["open"].var_names) == set(regions) and sp.issparse(mdata["open"].X)
    dense = get.denoised(mdata, mod="atac", regions=list(mdata["open"].var_names)).to_numpy()
    np.testing.assert_array_equal(mdata["open"].X.toarray(), np.where(dense >= 0.2, dense, 0))


def test_the_model_is_still_that_of_the_measured_modalities():
    mdata = fitted()
    latent = get.latent(mdata)
    tl.denoise(mdata, mod="rna", mod_added="imputed")
    np.testing.assert_array_equal(get.latent(mdata), latent)
    tl.multivi(mdata, batch_key="batch", denoise=False, **QUICK)
    np.testing.assert_array_equal(mdata.obsm["X_multivi"], _fitted().obsm["X_multivi"])


def test_it_is_written_and_copied_with_the_object(tmp_path):
    import mudata

    mdata = fitted()
    done = tl.denoise(mdata, mod="rna", mod_added="imputed", copy=True)
    assert "imputed" in done.mod and "imputed" not in mdata.mod
    done.write_h5mu(tmp_path / "cells.h5mu")
    again = mudata.read_h5mu(tmp_path / "cells.h5mu")
    np.testing.assert_array_equal(again["imputed"].X, done["imputed"].X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mod_added": "rna"}, r"mod_added='rna': mdata has that modality already"),
        ({"mod_added": "a/b"}, r"mod_added='a/b' cannot be a key"),
        ({"mod_added": "new", "key_added": "layer"}, "give one of the two"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str):
    mdata = fitted()
    with pytest.raises(InputError, match=message):
        tl.denoise(mdata, mod="rna", **options)
    assert list(mdata.mod) == ["rna", "atac"]


def test_an_object_that_fails_to_take_it_is_left_as_it_was(monkeypatch):
    mdata = fitted()
    obs, var_names, update = mdata.obs.copy(), mdata.var_names.copy(), MuData.update
    failing = iter([True, False])

    def stopped(self, *args, **options):
        if next(failing):
            raise KeyboardInterrupt
        update(self, *args, **options)

    monkeypatch.setattr(write.MuData, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        tl.denoise(mdata, mod="rna", mod_added="imputed")
    assert list(mdata.mod) == ["rna", "atac"]
    assert mdata.obs.equals(obs) and mdata.var_names.equals(var_names)
    assert get.latent(mdata).shape[0] == mdata.n_obs


@pytest.mark.slow
def test_scanpy_takes_the_mudata_as_it_is():
    import scanpy as sc

    mdata = fitted()
    sc.pp.neighbors(mdata, use_rep="X_multivi", n_neighbors=5)
    sc.tl.umap(mdata, maxiter=2)
    sc.tl.leiden(mdata, flavor="igraph", n_iterations=2)
    assert mdata.obsm["X_umap"].shape == (60, 2)
    assert mdata.obs["leiden"].notna().all()
    tl.denoise(mdata, mod="rna", mod_added="imputed")
    assert mdata.obsm["X_umap"].shape == (60, 2)
