"""The object is the saved model: whatever is made of it and however it is stored, it answers to the bit, or says why.

Each object derived from a fit is asked in memory and again after a file. Where it cannot answer, both say so in the
same words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scvi_pp as svp
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError, ScviPPError
from tests.contract import QUICK, VERBS, assert_same, small_counts

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning"),  # anndata 0.12
]

OPTIONS = {**QUICK, "max_epochs": 2, "batch_key": "batch", "layer": "counts"}


def lean(seed: int = 0) -> ad.AnnData:
    """Little more than what a fit needs: what else there is costs time in every file."""
    full = small_counts(seed=seed)
    return ad.AnnData(None, obs=full.obs[["batch"]], var=full.var, layers={"counts": full.X})


def fit(seed: int = 0, prefix: str = "") -> ad.AnnData:
    adata = lean(seed)
    adata.obs_names = prefix + adata.obs_names
    svp.tl.scvi(adata, rng=seed, **OPTIONS)
    return adata


@pytest.fixture(scope="module")
def one() -> ad.AnnData:
    with svp.settings.override(verbosity=0):
        return fit(0)


@pytest.fixture(scope="module")
def other() -> ad.AnnData:
    with svp.settings.override(verbosity=0):
        return fit(1, "other_")


# ---- ways to store


def h5ad(adata: ad.AnnData, folder: Path, **options) -> ad.AnnData:
    adata.write_h5ad(folder / "a.h5ad", **options)
    return ad.read_h5ad(folder / "a.h5ad")


def zarr(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    adata.write_zarr(folder / "a.zarr")
    return ad.read_zarr(folder / "a.zarr")


FILES: dict[str, Callable[[ad.AnnData, Path], ad.AnnData]] = {
    "h5ad": h5ad,
    "h5ad with gzip": lambda adata, folder: h5ad(adata, folder, compression="gzip"),
    "zarr": zarr,
}

# every combination is run with one kind of file, and with the others among the slow tests
every_file = pytest.mark.parametrize(
    "file", [name if name == "h5ad" else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
)

# ---- what is made of a fitted object, and what it then says

MERGES = (None, "same", "unique", "first", "only")
LOST = r"uns holds no fitted model.* A concat drops uns unless uns_merge is given"
MIXED = r"does not match its checksum \(sha256\).* a concat mixed two models|dropped by a concat of different models"
TOO_LITTLE = r"uns holds no fitted model|too little of it is left|dropped by a concat"


def halves(one: ad.AnnData) -> list[ad.AnnData]:
    return [one[:30].copy(), one[30:].copy()]


def without_model(other: ad.AnnData) -> ad.AnnData:
    bare = other.copy()
    del bare.uns["scvi"]
    return bare


def renamed(one: ad.AnnData) -> ad.AnnData:
    other = one.copy()
    other.var_names = [f"ENSG{i}" for i in range(other.n_vars)]
    return other


def without_counts(one: ad.AnnData) -> ad.AnnData:
    bare = one.copy()
    del bare.layers["counts"]
    return bare


MADE: dict[str, Callable[[ad.AnnData, ad.AnnData], ad.AnnData]] = {
    "itself": lambda one, _: one,
    "a copy": lambda one, _: one.copy(),
    "a view": lambda one, _: one[:],
    "some cells": lambda one, _: one[5:40:2].copy(),
    "a view of some cells": lambda one, _: one[[30, 2, 17]],
    "one cell": lambda one, _: one[3].copy(),
    "genes in another order": lambda one, _: one[:, ::-1].copy(),
    "a view of genes in another order": lambda one, _: one[:, ::-1],
    "cells of one batch": lambda one, _: one[one.obs["batch"] == "b1"].copy(),
}
for merge in ("same", "unique", "first"):
    MADE[f"concat of its halves, {merge}"] = lambda one, _, merge=merge: ad.concat(halves(one), uns_merge=merge)
for merge in ("unique", "first", "only"):
    MADE[f"concat with cells without a model, {merge}"] = lambda one, other, merge=merge: ad.concat(
        [one, without_model(other)], uns_merge=merge
    )

SILENT: dict[str, tuple[Callable[[ad.AnnData, ad.AnnData], ad.AnnData], type, str]] = {
    "some genes": (
        lambda one, _: one[:, :12].copy(),
        InputError,
        "var_names lacks 8 of the model's 20 features: gene12, ",
    ),
    "a view of some genes": (
        lambda one, _: one[:, 5:],
        InputError,
        "var_names lacks 5 of the model's 20 features: gene0, ",
    ),
    "renamed genes": (lambda one, _: renamed(one), InputError, "may be of another kind"),
    "without the counts": (lambda one, _: without_counts(one), MissingKeyError, "adata has no layer 'counts'"),
}
for merge in (None, "only"):
    SILENT[f"concat of its halves, {merge}"] = (
        lambda one, _, merge=merge: ad.concat(halves(one), uns_merge=merge),
        ScviPPError,
        TOO_LITTLE,
    )
for merge in (None, "same"):
    SILENT[f"concat with cells without a model, {merge}"] = (
        lambda one, other, merge=merge: ad.concat([one, without_model(other)], uns_merge=merge),
        MissingKeyError,
        LOST,
    )
for merge in MERGES:
    if merge != "first":  # of two models, "first" keeps the first, whole
        SILENT[f"concat of two fits, {merge}"] = (
            lambda one, other, merge=merge: ad.concat([one, other], uns_merge=merge),
            (MissingKeyError, ModelRecordError),
            f"{TOO_LITTLE}|{MIXED}",
        )
MADE["concat of two fits, first"] = lambda one, other: ad.concat([one, other], uns_merge="first")


def answers(adata: ad.AnnData) -> dict[str, np.ndarray]:
    adata = adata.copy()  # the answer of a view may not change the view
    found = {"latent": svp.get.latent(adata), "draws": svp.get.latent(adata, kind="sample", n_samples=2, rng=5)}
    svp.tl.denoise(adata, library_size="latent", key_added="again")
    found["denoised"] = adata.layers["again"]
    found["in another batch"] = svp.get.denoised(adata, transform_batch=["b0", "b1"], n_samples=2).to_numpy()
    found["counts"] = svp.get.samples(adata)
    found["history"] = svp.get.history(adata)
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_kind_of_file_keeps_a_fit(file: str, one, tmp_path: Path):
    before = answers(one)
    assert_same(answers(FILES[file](one, tmp_path)), before)


@every_file
@pytest.mark.parametrize("made", MADE)
def test_answers_are_the_same_to_the_bit_after_a_file(made: str, file: str, one, other, tmp_path: Path):
    derived = MADE[made](one, other)
    before = answers(derived)
    again = FILES[file](derived, tmp_path)
    assert_same(answers(again), before)


@pytest.mark.parametrize("made", [made for made in MADE if "concat" not in made])
def test_cells_have_the_answers_they_had_in_the_whole(made: str, one, other):
    derived = MADE[made](one, other)
    whole = one.obs_names.get_indexer(derived.obs_names)
    np.testing.assert_allclose(svp.get.latent(derived), one.obsm["X_scvi"][whole], atol=2e-6)
    denoised = svp.get.denoised(derived)
    assert list(denoised.columns) == list(one.var_names)
    np.testing.assert_allclose(denoised, one.layers["scvi_denoised"][whole], rtol=2e-5)


@every_file
@pytest.mark.parametrize("made", SILENT)
def test_what_cannot_answer_says_why_before_and_after_a_file(made: str, file: str, one, other, tmp_path: Path):
    make, error, message = SILENT[made]
    derived = make(one, other)
    again = FILES[file](derived, tmp_path)
    for ask in (svp.get.latent, svp.tl.denoise):
        said = []
        for asked in (derived, again):
            with pytest.raises(error, match=message) as caught:
                ask(asked)
            said.append(str(caught.value))
        assert said[0] == said[1]


CHROMATIN = {verb.name: verb for verb in VERBS if verb.features == "regions"}


@cache
def fit_of(name: str) -> ad.AnnData:
    verb = CHROMATIN[name]
    full = verb.data()
    adata = ad.AnnData(None, obs=full.obs[["batch"]], var=full.var, layers={"counts": full.X})
    with svp.settings.override(verbosity=0):
        verb(adata, max_epochs=2, batch_key="batch", layer="counts")
    return adata


@every_file
@pytest.mark.parametrize("made", ["itself", "some cells", "a view of genes in another order"])
@pytest.mark.parametrize("name", CHROMATIN)
def test_models_of_chromatin_answer_the_same_after_a_file(name: str, made: str, file: str, tmp_path: Path):
    derived = MADE[made](fit_of(name), fit_of(name)).copy()
    svp.tl.denoise(derived, threshold=0.01, normalize_cells=True, normalize_regions=True, key_added="sparse")
    before = {**answers(derived), "region factors": svp.get.region_factors(derived).to_frame()}
    again = FILES[file](derived, tmp_path)
    assert_same({**answers(again), "region factors": svp.get.region_factors(again).to_frame()}, before)
    assert_same(again.layers["sparse"], derived.layers["sparse"])
    assert_same(svp.get.model_info(again), svp.get.model_info(derived))


def test_answers_are_the_same_after_many_files(one, tmp_path: Path):
    again = one
    for name in ("h5ad", "zarr", "h5ad with gzip"):
        again = FILES[name](again, tmp_path)
    assert_same(answers(again), answers(one))


def test_a_new_process_gives_the_same_bits(one, tmp_path: Path):
    """Nothing of the answer hides in the process that fitted the model."""
    import subprocess
    import sys

    one.write_h5ad(tmp_path / "a.h5ad")
    code = (
        "import anndata, numpy, scvi_pp as svp\n"
        "adata = anndata.read_h5ad('a.h5ad')\n"
        "numpy.savez('out.npz', latent=svp.get.latent(adata), denoised=svp.get.denoised(adata).to_numpy())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    with np.load(tmp_path / "out.npz") as out:
        assert_same(out["latent"], one.obsm["X_scvi"])
        assert_same(out["denoised"], np.asarray(one.layers["scvi_denoised"]))


def test_model_in_a_file_of_its_own_goes_on_after_the_object_was_stored(tmp_path: Path):
    adata = lean()
    svp.tl.scvi(adata, save_model=tmp_path / "model.safetensors", **OPTIONS)
    assert "blob" not in adata.uns["scvi"]["model"]
    again = h5ad(adata, tmp_path)
    assert_same(svp.get.latent(again), adata.obsm["X_scvi"])
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelRecordError, match=r"the model's file '.*model\.safetensors' cannot be read"):
        svp.get.latent(again)


def test_without_a_model_the_results_stay_and_questions_say_why(tmp_path: Path):
    adata = lean()
    svp.tl.scvi(adata, save_model=False, **OPTIONS)
    again = h5ad(adata, tmp_path)
    assert_same(again.obsm["X_scvi"], adata.obsm["X_scvi"])
    assert len(svp.get.history(again)) == 2
    with pytest.raises(ModelRecordError, match=r"it was fitted with save_model=False"):
        svp.get.latent(again)


def test_a_fit_goes_on_from_a_read_object(one, tmp_path: Path):
    again = h5ad(one, tmp_path)
    svp.tl.scvi(again, key_added="second", **OPTIONS)
    assert_same(again.obsm["second"], one.obsm["X_scvi"])


@pytest.mark.skipif(not hasattr(ad.AnnData, "unwriteable"), reason="anndata before 0.13 has no such check")
def test_anndata_finds_nothing_it_cannot_write(one):
    assert not one.unwriteable()
