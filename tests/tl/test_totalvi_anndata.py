"""tl.totalvi of an AnnData whose proteins lie in obsm, or among its features: the same model as of the MuData."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.modalities import multimodal
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_only_added, contents

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning"),  # anndata 0.12
]

N_CELLS = 60


@cache
def _simulated() -> MuData:
    """The last cells have no proteins."""
    whole = svp.datasets.simulate_multiome(N_CELLS, 20, n_regions=10, n_proteins=5)
    counts = sp.lil_matrix(whole["protein"].X)
    counts[:, 0] = 3
    whole["protein"].X = sp.csr_matrix(counts)
    return multimodal({"rna": whole["rna"].copy(), "protein": whole["protein"][:48].copy()}, whole.obs)


def as_mudata() -> MuData:
    return copied(_simulated())


def beside(kind: str = "table") -> ad.AnnData:
    """Genes, and the proteins in obsm."""
    mdata = _simulated()
    rna, proteins = mdata["rna"], mdata["protein"].to_df().reindex(mdata["rna"].obs_names)
    adata = ad.AnnData(rna.X.copy(), obs=rna.obs[["batch"]].copy(), var=rna.var[[]].copy())
    adata.uns["names"] = np.array(proteins.columns, dtype=object)
    adata.obsm["adt"] = {
        "table": proteins.fillna(0),
        "table with NaN": proteins,
        "array": proteins.fillna(0).to_numpy(),
        "sparse": sp.csr_matrix(proteins.fillna(0).to_numpy()),
        "integers": proteins.fillna(0).astype(np.int32),
    }[kind]
    return adata


def among() -> ad.AnnData:
    """Genes and proteins as features."""
    adata, mdata = beside(), _simulated()
    types = ["Gene Expression"] * adata.n_vars + ["Antibody Capture"] * 5
    names = [*adata.var_names, *mdata["protein"].var_names]
    x = sp.csr_matrix(np.hstack([adata.X.toarray(), adata.obsm["adt"].to_numpy()]))
    return ad.AnnData(x, obs=adata.obs, var=pd.DataFrame({"feature_types": types}, index=names))


def fitted(data, **options):
    tl.totalvi(data, **{**QUICK, "max_epochs": 2, "batch_key": "batch", **options})
    return data


@cache
def _fitted() -> ad.AnnData:
    return fitted(beside(), protein_obsm="adt")


@pytest.mark.parametrize("kind", ["table", "table with NaN", "integers", "array", "sparse", "features"])
def test_it_is_the_model_of_the_mudata(kind: str):
    mdata = fitted(as_mudata())
    if kind == "features":
        adata = fitted(among())
    else:
        adata = fitted(beside(kind), protein_obsm="adt", protein_names_uns_key="names")
    np.testing.assert_array_equal(adata.obsm["X_totalvi"], mdata.obsm["X_totalvi"])
    for name in ("rna", "protein"):
        pd.testing.assert_frame_equal(get.denoised(adata, mod=name), get.denoised(mdata, mod=name))
    pd.testing.assert_frame_equal(get.foreground_probability(adata), get.foreground_probability(mdata))
    assert get.elbo(adata) == get.elbo(mdata)


def test_genes_go_to_a_layer_and_proteins_to_a_table_in_obsm():
    adata = beside()
    before = contents(adata)
    fitted(adata, protein_obsm="adt")
    assert_only_added(
        before, adata, {"obsm[X_totalvi]", "obsm[totalvi_protein]", "layers[totalvi_denoised]", "uns[totalvi]"}
    )
    pd.testing.assert_frame_equal(adata.obsm["totalvi_protein"], get.denoised(adata, mod="protein"))
    np.testing.assert_array_equal(adata.layers["totalvi_denoised"], get.denoised(adata, mod="rna"))
    assert adata.uns["totalvi"]["params"]["protein_obsm"] == "adt"


def test_what_is_not_wanted_is_not_written():
    adata = fitted(beside(), protein_obsm="adt", denoise=False, key_added="joint")
    assert (set(adata.obsm), set(adata.layers), set(adata.uns)) == ({"adt", "joint"}, set(), {"names", "joint"})
    tl.denoise(adata, mod="protein", library_size="latent")
    tl.denoise(adata, mod="protein", genes=["protein2"], key_added="some")
    assert (set(adata.obsm), set(adata.layers)) == ({"adt", "joint", "joint_protein", "some"}, set())
    pd.testing.assert_frame_equal(adata.obsm["joint_protein"], get.denoised(adata, mod="protein"))
    assert adata.obsm["some"].notna().any().to_list() == [False, True, False, False, False]
    tl.denoise(adata, mod="rna")
    assert set(adata.layers) == {"joint_denoised"}


def test_proteins_without_names_are_numbered():
    adata = fitted(beside("array"), protein_obsm="adt")
    assert list(adata.obsm["totalvi_protein"].columns) == [f"protein_{i}" for i in range(5)]
    np.testing.assert_array_equal(adata.obsm["X_totalvi"], _fitted().obsm["X_totalvi"])


@pytest.mark.parametrize("kind", ["table", "array", "sparse"])
@pytest.mark.parametrize("file", ["h5ad", "zarr"])
def test_a_file_answers_as_the_object_does(file: str, kind: str, tmp_path):
    adata = fitted(beside(kind), protein_obsm="adt")
    path = tmp_path / f"cells.{file}"
    getattr(adata, f"write_{file}")(path)
    again = getattr(ad, f"read_{file}")(path)
    np.testing.assert_array_equal(get.latent(again), adata.obsm["X_totalvi"])
    for name in ("rna", "protein"):
        pd.testing.assert_frame_equal(get.denoised(again, mod=name), get.denoised(adata, mod=name))
    np.testing.assert_array_equal(again.obsm["totalvi_protein"], adata.obsm["totalvi_protein"])


def test_some_cells_and_proteins_in_another_order_are_answered_for():
    adata = _fitted()
    some = adata[5:30].copy()
    some.obsm["adt"] = some.obsm["adt"].iloc[:, ::-1]
    np.testing.assert_allclose(get.latent(adata, adata_new=some), adata.obsm["X_totalvi"][5:30], atol=1e-6)
    np.testing.assert_allclose(get.latent(adata, adata_new=as_other_object()), adata.obsm["X_totalvi"], atol=1e-6)


def as_other_object() -> MuData:
    """The same cells as a MuData."""
    mdata = as_mudata()
    mdata.obs["batch"] = mdata["rna"].obs["batch"]
    return mdata


def test_every_question_has_an_answer_and_a_query_is_mapped():
    adata, query = beside(), beside()
    fitted(adata, protein_obsm="adt")
    assert tl.simulate(adata, 10, mod="protein").shape == (10, 5)
    tl.differential_expression(adata, groupby="batch", mod="protein", n_samples=50)
    assert len(get.differential_expression(adata)) == 10
    tl.posterior_predictive_check(adata, mod="protein", n_samples=2)
    query.obs["batch"] = "new"
    tl.map_query(query, adata, max_epochs=1)
    assert np.isfinite(query.obsm["X_totalvi"]).all()
    assert get.model_info(query)["batches"] == ["batch1", "batch2", "new"]


REFUSED = [
    ({"protein_obsm": "adtt"}, MissingKeyError, r"adata has no obsm 'adtt'. Did you mean 'adt'"),
    (
        {"protein_obsm": "adt", "protein_names_uns_key": "nam"},
        MissingKeyError,
        "no uns key 'nam'.*Did you mean 'names'",
    ),
    ({"protein_obsm": "adt", "protein_names_uns_key": "few"}, InputError, r"uns\['few'\] holds 2 names.* 5 columns"),
    ({"protein_obsm": "adt", "protein_layer": "counts"}, InputError, "both say where proteins are"),
    ({"protein_obsm": "adt", "rna_layer": "counts"}, MissingKeyError, "adata has no layer 'counts'"),
    ({"protein_obsm": "text"}, InputError, r"obsm\['text'\] holds .* has to be a table of counts"),
    ({"protein_obsm": "half"}, InputError, r"adata\.obsm\['half'\].* holds values that are not whole numbers"),
    ({"protein_obsm": 3}, InputError, "protein_obsm=3 must be a name"),
    ({}, MissingKeyError, "no column 'feature_types'"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_is_refused_and_nothing_changes(options: dict, error: type, message: str):
    adata = beside()
    adata.uns["few"] = np.array(["a", "b"], dtype=object)
    adata.obsm["half"] = adata.obsm["adt"] * 0.5
    adata.obsm["text"] = adata.obsm["adt"].astype(str).assign(protein1="CD3")
    before = contents(adata)
    with pytest.raises(error, match=message):
        fitted(adata, **options)
    assert_only_added(before, adata, set())
