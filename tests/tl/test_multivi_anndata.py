"""tl.multivi of an AnnData that holds the features of all modalities: the same model as of the MuData it stands for."""

from __future__ import annotations

import copy
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.feature_types import by_feature_type
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]

TYPES = {"rna": "Gene Expression", "atac": "Peaks", "protein": "Antibody Capture"}


@cache
def _simulated() -> MuData:
    """Every cell has a count of all that it was measured in, so that an AnnData can say the same."""
    mdata = svp.datasets.simulate_multiome(
        60, 20, n_regions=40, n_proteins=4, rna_only=0.2, atac_only=0.3, positive_rate=0.2
    )
    for modality in mdata.mod.values():
        counts = sp.lil_matrix(modality.X)
        counts[:, 0] = 1
        modality.X = sp.csr_matrix(counts)
    return mdata


def as_mudata() -> MuData:
    return copied(_simulated())


def as_anndata(column: str = "feature_types") -> ad.AnnData:
    """The same cells and counts in one table."""
    mdata = _simulated()
    blocks, var = [], []
    for name, modality in mdata.mod.items():
        block = np.zeros((mdata.n_obs, modality.n_vars), dtype=np.float32)
        block[mdata.obs_names.get_indexer(modality.obs_names)] = modality.X.toarray()
        blocks.append(block)
        var.append(pd.DataFrame({column: TYPES[name] if column == "feature_types" else name}, index=modality.var_names))
    return ad.AnnData(sp.csr_matrix(np.hstack(blocks)), obs=mdata.obs.copy(), var=pd.concat(var))


def fitted(data, **options):
    tl.multivi(data, **{**QUICK, "max_epochs": 2, "batch_key": "batch", **options})
    return data


@cache
def _fitted() -> ad.AnnData:
    return fitted(as_anndata())


@pytest.mark.parametrize("column", ["feature_types", "modality"])
def test_it_is_the_model_of_the_mudata(column: str):
    mdata, adata = fitted(as_mudata()), fitted(as_anndata(column))
    where = adata.obs_names.get_indexer(mdata.obs_names)
    np.testing.assert_array_equal(adata.obsm["X_multivi"][where], mdata.obsm["X_multivi"])
    for name, modality in mdata.mod.items():
        np.testing.assert_array_equal(
            adata[modality.obs_names, modality.var_names].layers["multivi_denoised"],
            modality.layers["multivi_denoised"],
        )
        pd.testing.assert_frame_equal(get.denoised(adata, mod=name), get.denoised(mdata, mod=name).loc[adata.obs_names])
    assert get.elbo(adata) == pytest.approx(get.elbo(mdata), rel=1e-6)


def test_the_layer_holds_all_cells_and_features():
    adata = _fitted()
    assert np.isfinite(adata.layers["multivi_denoised"]).all()
    np.testing.assert_array_equal(
        adata[:, adata.var["feature_types"] == "Peaks"].layers["multivi_denoised"], get.denoised(adata, mod="atac")
    )
    assert set(adata.uns["multivi"]["params"]) >= {"rna", "atac", "protein", "batch_key"}


def test_what_is_not_modelled_is_nan():
    adata = as_anndata()
    adata.var["chosen"] = np.arange(adata.n_vars) % 2 == 0
    fitted(adata, protein=False, rna_mask_var="chosen")
    known = (adata.var["feature_types"] == "Peaks") | (
        (adata.var["feature_types"] != TYPES["protein"]) & adata.var["chosen"]
    )
    np.testing.assert_array_equal(np.isnan(adata.layers["multivi_denoised"]).all(0), ~known)
    assert np.isfinite(adata.layers["multivi_denoised"][:, known]).all()


def test_each_modality_has_its_layer_and_the_object_nothing_else_changes():
    adata = as_anndata()
    counts = adata.X.copy()
    adata.layers["counts"], adata.X = counts, counts.log1p()
    before = copy.deepcopy({"obs": adata.obs, "var": adata.var})
    fitted(adata, rna_layer="counts", atac_layer="counts", protein_layer="counts", denoise=False, key_added="joint")
    np.testing.assert_array_equal(adata.obsm["joint"], _fitted().obsm["X_multivi"])
    assert (set(adata.obsm), set(adata.uns), set(adata.layers)) == ({"joint"}, {"joint"}, {"counts"})
    pd.testing.assert_frame_equal(adata.obs, before["obs"])
    pd.testing.assert_frame_equal(adata.var, before["var"])
    assert get.latent(adata).shape == (60, adata.obsm["joint"].shape[1])


def test_it_is_written_to_h5ad_and_answers_from_there(tmp_path):
    adata = _fitted()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(get.latent(again), get.latent(adata))
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    pd.testing.assert_frame_equal(get.denoised(backed, mod="atac"), get.denoised(adata, mod="atac"))


def test_models_answer_about_either_kind_of_object():
    adata, mdata = _fitted(), as_mudata()
    of_mudata = get.latent(adata, adata_new=mdata)
    where = adata.obs_names.get_indexer(mdata.obs_names)
    np.testing.assert_allclose(of_mudata, get.latent(adata)[where], atol=1e-6)
    np.testing.assert_allclose(get.latent(fitted(mdata), adata_new=adata), get.latent(adata), atol=1e-6)


def test_a_copy_leaves_the_original_and_a_view_becomes_an_object():
    adata = as_anndata()
    done = tl.multivi(adata, **QUICK, copy=True)
    assert not adata.obsm and set(done.obsm) == {"X_multivi"}
    view = adata[:40]
    fitted(view)
    assert not view.is_view and view.obsm["X_multivi"].shape[0] == 40


def test_denoise_writes_the_columns_of_the_modality():
    adata = fitted(as_anndata(), denoise=False)
    tl.denoise(adata, mod="atac", key_added="open")
    is_region = (adata.var["feature_types"] == "Peaks").to_numpy()
    np.testing.assert_array_equal(np.isnan(adata.layers["open"]).all(0), ~is_region)
    with pytest.raises(InputError, match="mod_added makes a new modality of a MuData"):
        tl.denoise(adata, mod="atac", mod_added="open")


# ---- in which cells a modality was measured


def test_a_cell_was_measured_in_what_it_has_counts_of():
    adata = as_anndata()
    mdata = by_feature_type(adata, {"rna": None, "atac": None, "protein": None})
    assert mdata.obs_names.equals(adata.obs_names)
    for name, modality in _simulated().mod.items():
        assert set(mdata[name].obs_names) == set(modality.obs_names)
        np.testing.assert_array_equal(mdata[name][modality.obs_names].X.toarray(), modality.X.toarray())


def test_a_cell_without_any_count_is_one_of_the_first_modality_and_is_remarked_on(capfd):
    adata = as_anndata()
    counts = sp.lil_matrix(adata.X)
    counts[7] = 0
    adata.X = sp.csr_matrix(counts)
    mdata = by_feature_type(adata, {"rna": None, "atac": None})
    assert adata.obs_names[7] in mdata["rna"].obs_names and adata.obs_names[7] not in mdata["atac"].obs_names
    with svp.settings.override(verbosity=1):
        fitted(adata)
    assert "1 of 60 cells have no counts in any modality" in capfd.readouterr().err
    assert np.isfinite(adata.obsm["X_multivi"]).all()


def test_features_of_other_types_are_left_out():
    adata = as_anndata()
    adata.var["feature_types"] = adata.var["feature_types"].replace("Antibody Capture", "CRISPR Guide Capture")
    fitted(adata)
    assert "protein" not in adata.uns["multivi"]["params"]


# ---- what is refused, with the object as it was


def refused(adata: ad.AnnData, error: type[Exception], message: str, **options) -> None:
    before = (set(adata.obsm), set(adata.uns), set(adata.layers), adata.obs.copy())
    with pytest.raises(error, match=message):
        tl.multivi(adata, **{**QUICK, **options})
    assert (set(adata.obsm), set(adata.uns), set(adata.layers)) == before[:3]
    pd.testing.assert_frame_equal(adata.obs, before[3])


def test_an_anndata_that_does_not_say_what_its_features_are():
    adata = as_anndata()
    del adata.var["feature_types"]
    refused(adata, MissingKeyError, r"adata\.var has no column 'feature_types'.*pp\.organize_multiome")
    adata.var["feature_types"] = "gene"
    refused(adata, InputError, r"adata\.var\['feature_types'\] holds 'gene', and none of 'Gene Expression'")


def test_values_that_are_no_counts_are_refused_with_the_argument_that_names_the_layer():
    adata = as_anndata()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X.log1p()
    message = r"adata \(features of 'rna'\): X holds .*log-normalised.*pass rna_layer='counts'"
    refused(adata, InputError, message)
    refused(adata, InputError, r"adata \(features of 'atac'\): X.*pass atac_layer='counts'", rna_layer="counts")
    refused(adata, MissingKeyError, r"no layer 'cuonts'\. Did you mean 'counts'", rna_layer="cuonts")
    changed = copy.deepcopy(_fitted())
    changed.X = changed.X.log1p()
    with pytest.raises(InputError, match=r"get\.latent reads adata as the fit did, but adata \(features of 'rna'\): X"):
        get.latent(changed)


def test_what_else_is_wrong_speaks_of_the_anndata():
    adata = as_anndata()
    refused(adata, MissingKeyError, r"^adata\.obs.* has no column 'bacth'\. Did you mean 'batch'", batch_key="bacth")
    refused(adata, InputError, r"atac='x' is no modality of adata\. Modalities: 'rna', 'atac', 'protein'", atac="x")
    twice = as_anndata()
    twice.obs_names = ["a"] * twice.n_obs
    refused(twice, InputError, r"adata\.obs_names hold 'a' more than once\. Call adata\.obs_names_make_unique")
    twice = as_anndata()
    twice.var_names = ["gene1", *twice.var_names[:-1]]
    refused(twice, InputError, "gene1")
