"""Files that were written once must load forever, and answer as they did."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pytest

from scvi_pp import get, tl

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]

HERE = Path(__file__).parent
FILES = ["scvi_1_default.h5ad", "scvi_1_rich.h5ad"]
OF_CHROMATIN = ["peakvi_1.h5ad", "poissonvi_1.h5ad"]
OF_MULTIOME = "multivi_1.h5mu"
OF_PROTEINS = {"totalvi_1.h5ad": ad.read_h5ad, "totalvi_1.h5mu": mudata.read_h5mu}
LATER = {"linear_scvi_1.h5ad": "linear_scvi", "query_1.h5ad": "scvi", "scanvi_1.h5ad": "scanvi"}
# another CPU or another torch rounds otherwise
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_every_archived_file_is_tested():
    assert sorted(path.name for path in HERE.glob("*.h5*")) == sorted(
        [*FILES, *OF_CHROMATIN, *LATER, OF_MULTIOME, *OF_PROTEINS]
    )


@pytest.mark.parametrize("file", FILES)
def test_archived_file_answers_as_it_did(file: str):
    adata = ad.read_h5ad(HERE / file)
    assert adata.uns["scvi"]["model"]["format"] == "scvi_pp/1"
    np.testing.assert_allclose(get.latent(adata), adata.obsm["X_scvi"], **CLOSE)
    _, variance = get.latent(adata, kind="distribution")
    np.testing.assert_allclose(variance, adata.obsm["variance"], **CLOSE)
    tl.denoise(adata, transform_batch=3, library_size="latent", key_added="again")
    np.testing.assert_allclose(adata.layers["again"], adata.layers["in_3"], **CLOSE)


@pytest.mark.parametrize("file", FILES)
def test_archived_file_says_what_it_is(file: str):
    adata = ad.read_h5ad(HERE / file)
    info = get.model_info(adata)
    modelled = adata.var_names if "default" in file else adata.var_names[adata.var["chosen"]]
    assert info["genes"] == list(modelled)
    assert info["batches"] == ["3", "10"]
    assert info["training"]["scvi_pp_version"] == "0.1.0"
    history = get.history(adata)
    assert len(history) == 3
    assert np.isfinite(history.to_numpy()).all()
    assert np.isfinite(get.elbo(adata))
    assert get.samples(adata).shape == (adata.n_obs, len(modelled))


def test_archived_vectors_of_batches_and_unseen_cells_are_answered_for():
    adata = ad.read_h5ad(HERE / "scvi_1_rich.h5ad")
    assert get.batch_representation(adata).shape == (2, 2)
    bare = ad.AnnData(None, obs=adata.obs, var=adata.var[[]], layers={"counts": adata.layers["counts"]})
    reversed_genes = bare[::-1, ::-1].copy()
    np.testing.assert_allclose(get.latent(adata, adata_new=reversed_genes)[::-1], adata.obsm["X_scvi"], **CLOSE)


@pytest.mark.parametrize("file", OF_CHROMATIN)
def test_archived_model_of_chromatin_answers_as_it_did(file: str):
    adata, model = ad.read_h5ad(HERE / file), file.partition("_")[0]
    assert adata.uns[model]["model"]["format"] == "scvi_pp/1"
    np.testing.assert_allclose(get.latent(adata), adata.obsm[f"X_{model}"], **CLOSE)
    np.testing.assert_allclose(get.latent(adata, kind="distribution")[1], adata.obsm["variance"], **CLOSE)
    tl.denoise(adata, transform_batch=3, normalize_cells=True, normalize_regions=True, key_added="again")
    np.testing.assert_allclose(adata.layers["again"], adata.layers["in_3"], **CLOSE)
    assert get.model_info(adata)["regions"] == list(adata.var_names)
    assert get.region_factors(adata).between(0, 1).all() or model == "poissonvi"
    assert np.isfinite(get.elbo(adata))


@pytest.mark.parametrize("file", LATER)
def test_archived_linear_model_and_archived_query_answer_as_they_did(file: str):
    adata, model = ad.read_h5ad(HERE / file), LATER[file]
    assert adata.uns[model]["model"]["format"] == "scvi_pp/1"
    np.testing.assert_allclose(get.latent(adata), adata.obsm[f"X_{model}"], **CLOSE)
    np.testing.assert_allclose(get.latent(adata, kind="distribution")[1], adata.obsm["variance"], **CLOSE)
    tl.denoise(adata, transform_batch="b", library_size="latent", key_added="again")
    np.testing.assert_allclose(adata.layers["again"], adata.layers["in_b"], **CLOSE)
    assert np.isfinite(get.elbo(adata))


def test_archived_loadings_are_what_they_were():
    adata = ad.read_h5ad(HERE / "linear_scvi_1.h5ad")
    np.testing.assert_allclose(get.loadings(adata), adata.varm["linear_scvi_loadings"], **CLOSE)


def test_archived_query_says_how_it_was_mapped():
    adata = ad.read_h5ad(HERE / "query_1.h5ad")
    assert adata.n_vars == 8 and get.denoised(adata).shape == (20, 10)
    params = adata.uns["scvi"]["params"]
    assert (params["added to obs['donor']"], params["added to obs['type']"]) == ("c", "unlabeled")
    assert params["shared features of X"] == "8 of 10"
    assert get.model_info(adata)["batches"] == ["a", "b", "c"]


def test_archived_multiome_answers_as_it_did():
    mdata = mudata.read_h5mu(HERE / OF_MULTIOME)
    np.testing.assert_allclose(get.latent(mdata), mdata.obsm["X_multivi"], **CLOSE)
    np.testing.assert_allclose(get.latent(mdata, kind="distribution")[1], mdata.obsm["variance"], **CLOSE)
    for name in ("rna", "atac", "adt"):
        np.testing.assert_allclose(
            get.denoised(mdata, mod=name, transform_batch=3), mdata.obsm[f"{name} in 3"], **CLOSE
        )
    info = get.model_info(mdata)
    assert info["proteins"] == list(mdata["adt"].var_names)
    assert info["training"]["scvi_pp_version"] == "0.1.0"
    assert np.isfinite(get.elbo(mdata))


@pytest.mark.parametrize("file", OF_PROTEINS)
def test_archived_model_of_proteins_answers_as_it_did(file: str):
    data = OF_PROTEINS[file](HERE / file)
    np.testing.assert_allclose(get.latent(data), data.obsm["X_totalvi"], **CLOSE)
    np.testing.assert_allclose(get.latent(data, kind="distribution")[1], data.obsm["variance"], **CLOSE)
    info = get.model_info(data)
    for name in ("rna", "protein"):
        np.testing.assert_allclose(get.denoised(data, mod=name, transform_batch=3), data.obsm[f"{name} in 3"], **CLOSE)
    np.testing.assert_allclose(get.foreground_probability(data), data.obsm["foreground"], **CLOSE)
    assert info["proteins"] == [f"protéine {i}" for i in range(5)]
    assert np.isfinite(get.elbo(data))
    unmeasured = data.uns["totalvi"]["params"].get("proteins_not_measured")
    assert unmeasured == ("3: protéine 1" if file == "totalvi_1.h5ad" else None)


def test_archived_files_stay_small():
    assert all(path.stat().st_size < 150_000 for path in HERE.glob("*.h5*"))


def test_archived_labels_are_given_again():
    adata = ad.read_h5ad(HERE / "scanvi_1.h5ad")
    tl.predict_labels(adata, key_added="again")
    np.testing.assert_allclose(adata.obsm["again_probabilities"], adata.obsm["scanvi_probabilities"], **CLOSE)
    assert adata.obs["again"].cat.categories.tolist() == ["α", "β"]
