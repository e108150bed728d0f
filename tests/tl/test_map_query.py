"""tl.map_query: cells of another study in the latent space of a fitted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.fitted import from_record
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError
from tests.contract import QUICK, assert_only_added, assert_same, contents
from tests.fits import CHROMATIN, MODELS, cells, fit, like, model_of
from tests.studies import Judge, seeds

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning"),
]

SHORT: dict[str, Any] = {"max_epochs": 3, "batch_size": 10, "device": "cpu"}
PLACES = {"obsm[X_scvi]", "uns[scvi]"}


def query_for(name: str, n_obs: int = 40) -> ad.AnnData:
    """Other cells: of a batch the model knows and one it does not, with a level of each category that is new."""
    adata = like(name, n_obs, seed=1)
    adata.obs_names = [f"new{i}" for i in range(n_obs)]
    adata.obs["batch"] = np.where(np.arange(n_obs) % 3, "b2", "b1")
    adata.obs["site"] = [f"s{i % 2 + 2}" for i in range(n_obs)]
    adata.obs["sex"] = np.array(["False", "True", "other"])[np.arange(n_obs) % 3]
    return adata


@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_the_reference_keeps_its_places_and_values_to_the_last_bit(name: str):
    reference, query, key = fit(name), query_for(name), model_of(name)
    before = contents(reference)
    tl.map_query(query, reference, **SHORT, learning_rate=0.1, weight_decay=0.1)
    assert_same(contents(reference), before)
    assert query.uns[key]["params"]["n_epochs"] >= 1
    np.testing.assert_array_equal(get.latent(query, adata_new=reference), reference.obsm[f"X_{key}"])
    ask: dict[str, Any] = {"library_size": "latent", "n_samples": 2}
    expected = get.denoised(reference, **ask)
    pd.testing.assert_frame_equal(get.denoised(query, adata_new=reference, **ask), expected, check_exact=True)
    np.testing.assert_array_equal(query.obsm[f"X_{key}"], get.latent(query))


@pytest.mark.parametrize("name", ["zinb", "covariates", "latent library", "peakvi", "poissonvi"])
def test_without_training_cells_of_known_groups_are_where_the_model_says(name: str):
    reference, query, key = fit(name), like(name, 30, seed=2), model_of(name)
    tl.map_query(query, reference, max_epochs=0)
    np.testing.assert_array_equal(query.obsm[f"X_{key}"], get.latent(reference, adata_new=like(name, 30, seed=2)))
    params = query.uns[key]["params"]
    assert (params["n_epochs"], params["ended"]) == (0, "placed") and "elbo" not in params
    weights = [from_record(each.uns, key).weights for each in (reference, query)]
    assert_same(*weights)


def test_what_is_written():
    query = query_for("zinb")
    before = contents(query)
    assert tl.map_query(query, fit("zinb"), **SHORT) is None
    assert_only_added({**before, "obs": query.obs}, query, PLACES)
    pd.testing.assert_frame_equal(query.obs.iloc[:, :-1], before["obs"])
    assert query.obs.columns[-1] == "scvi_mapping_confidence"
    assert query.obs["scvi_mapping_confidence"].between(0, 1, inclusive="right").all()
    params = query.uns["scvi"]["params"]
    assert params["added to obs['batch']"] == "b2"
    assert params["shared features of X"] == "20 of 20"
    assert params["reference_sha256"] == fit("zinb").uns["scvi"]["model"]["sha256"]
    assert (params["n_obs"], params["unfrozen"], params["gene_likelihood"]) == (40, "new", "zinb")


def test_a_copy_leaves_the_query_alone_and_names_can_be_chosen():
    query = query_for("zinb")
    before = contents(query)
    copied = tl.map_query(query, fit("zinb"), key_added="mapped", copy=True, **SHORT)
    assert_same(contents(query), before)
    assert {"mapped"} <= set(copied.obsm) & set(copied.uns) and "mapped_mapping_confidence" in copied.obs
    assert "X_scvi" not in copied.obsm


def test_results_go_where_those_of_the_fit_are():
    reference = cells()
    tl.scvi(reference, batch_key="batch", denoise=False, key_added="atlas", **QUICK)
    query = query_for("zinb")
    tl.map_query(query, reference, max_epochs=0)
    assert "atlas" in query.obsm and "atlas" in query.uns
    both = ad.concat([reference, query])
    assert both.obsm["atlas"].shape == (100, 2)


def test_same_seed_same_bits():
    first, same, other = (
        tl.map_query(query_for("encoded covariates"), fit("encoded covariates"), rng=seed, copy=True, **SHORT)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.obsm["X_scvi"], same.obsm["X_scvi"])
    assert_same(*(from_record(each.uns, "scvi").weights for each in (first, same)))
    assert not np.array_equal(first.obsm["X_scvi"], other.obsm["X_scvi"])


@pytest.mark.parametrize("kind", ["h5ad", "zarr", "safetensors", "entry"])
def test_the_reference_may_be_a_file_or_an_entry(kind: str, tmp_path: Path):
    reference = fit("covariates").copy()
    expected = query_for("covariates")
    tl.map_query(expected, reference, **SHORT)
    place: Any = tmp_path / f"reference.{kind}"
    if kind == "entry":
        place = reference.uns["scvi"]
    elif kind == "safetensors":
        place.write_bytes(reference.uns["scvi"]["model"]["blob"].tobytes())
    else:
        (reference.write_zarr if kind == "zarr" else reference.write_h5ad)(place)
    query = query_for("covariates")
    tl.map_query(query, place, **SHORT)
    np.testing.assert_array_equal(query.obsm["X_scvi"], expected.obsm["X_scvi"])
    assert_same(*(from_record(each.uns, "scvi").weights for each in (query, expected)))
    assert ("scvi_mapping_confidence" in query.obs) == (kind in ("h5ad", "zarr"))


def test_no_confidence_of_an_earlier_mapping_is_left():
    query = query_for("zinb")
    tl.map_query(query, fit("zinb"), max_epochs=0)
    tl.map_query(query, fit("zinb").uns["scvi"], max_epochs=0)
    assert query.obs["scvi_mapping_confidence"].isna().all()


def test_a_mapped_query_answers_from_its_file(tmp_path: Path):
    query = query_for("covariates")[:, :15].copy()
    tl.map_query(query, fit("covariates"), **SHORT)
    query.write_h5ad(tmp_path / "query.h5ad")
    again = ad.read_h5ad(tmp_path / "query.h5ad")
    np.testing.assert_array_equal(get.latent(again), query.obsm["X_scvi"])
    tl.denoise(again, transform_batch="b2")
    assert again.layers["scvi_denoised"].shape == (40, 15) and np.isfinite(again.layers["scvi_denoised"]).all()
    tl.differential_expression(again, "batch", n_samples=200)


def test_genes_are_matched_by_name_and_those_that_are_not_there_count_as_zero():
    reference, query = fit("zinb"), query_for("zinb")
    some = query[:, np.random.default_rng(0).permutation(20)[:17]].copy()
    tl.map_query(some, reference, max_epochs=0)
    zeroed = query.copy()
    zeroed.X = zeroed.X.toarray() * zeroed.var_names.isin(some.var_names)
    tl.map_query(zeroed, reference, max_epochs=0)
    np.testing.assert_allclose(some.obsm["X_scvi"], zeroed.obsm["X_scvi"], atol=1e-6)
    assert some.uns["scvi"]["params"]["shared features of X"] == "17 of 20"


def test_few_shared_genes_are_remarked_on(capfd: pytest.CaptureFixture):
    with svp.settings.override(verbosity=1):
        tl.map_query(query_for("zinb")[:, :15].copy(), fit("zinb"), max_epochs=0)
    assert "X has 15 of the 20 features of the model. The others count as zero" in capfd.readouterr().err


def test_labels_need_not_be_there():
    reference, query = fit("gene-label"), query_for("gene-label")
    del query.obs["type"]
    tl.map_query(query, reference, **SHORT)
    assert query.uns["scvi"]["params"]["added to obs['type']"] == "unlabeled"
    np.testing.assert_array_equal(get.latent(query, adata_new=reference), reference.obsm["X_scvi"])


def test_a_model_without_batches_places_cells():
    reference = cells()
    tl.scvi(reference, denoise=False, **QUICK)
    query = query_for("zinb")
    tl.map_query(query, reference)
    assert query.uns["scvi"]["params"]["n_epochs"] == 0
    np.testing.assert_array_equal(query.obsm["X_scvi"], get.latent(reference, adata_new=query_for("zinb")))


def test_one_cell_is_enough():
    query = query_for("zinb")[1:2].copy()
    tl.map_query(query, fit("zinb"), **SHORT)
    assert query.obsm["X_scvi"].shape == (1, QUICK["n_latent"])


def test_counts_may_be_in_another_place():
    query = query_for("zinb")
    expected = tl.map_query(query, fit("zinb"), max_epochs=0, copy=True)
    query.layers["umi"] = query.X.copy()
    query.X = query.X.log1p()
    tl.map_query(query, fit("zinb"), layer="umi", max_epochs=0)
    np.testing.assert_array_equal(query.obsm["X_scvi"], expected.obsm["X_scvi"])
    np.testing.assert_array_equal(get.latent(query), expected.obsm["X_scvi"])


@pytest.mark.parametrize("unfrozen", ["inputs", "all"])
def test_more_can_be_learned_and_then_the_reference_moves(unfrozen: str):
    reference, query = fit("zinb"), query_for("zinb")
    before = contents(reference)
    tl.map_query(query, reference, unfrozen=unfrozen, **SHORT)
    assert_same(contents(reference), before)
    assert not np.allclose(get.latent(query, adata_new=reference), reference.obsm["X_scvi"])
    assert query.obs["scvi_mapping_confidence"].notna().all()  # among the places that the reference has now


def test_a_query_of_a_query():
    first, second = query_for("encoded covariates"), query_for("encoded covariates", 30)
    second.obs["batch"] = "b3"
    tl.map_query(first, fit("encoded covariates"), **SHORT)
    tl.map_query(second, first, **SHORT)
    levels = from_record(second.uns, "scvi").sources["batch"].levels
    assert levels == ("b0", "b1", "b2", "b3")
    np.testing.assert_array_equal(get.latent(second, adata_new=first), first.obsm["X_scvi"])


def test_a_killed_mapping_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from scvi_pp._backend import fit as training

    options: dict[str, Any] = {**SHORT, "max_epochs": 4, "early_stopping": False}
    expected = tl.map_query(query_for("encoded covariates"), fit("encoded covariates"), copy=True, **options)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    accept = training._Loop._save

    def killed(self: Any) -> None:
        accept(self)
        if self.run.epoch == 2:
            raise KeyboardInterrupt

    path = tmp_path / "mapping.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr(training._Loop, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            tl.map_query(query_for("encoded covariates"), fit("encoded covariates"), checkpoint=path, **options)
    query = query_for("encoded covariates")
    tl.map_query(query, fit("encoded covariates"), checkpoint=path, **options)
    np.testing.assert_array_equal(query.obsm["X_scvi"], expected.obsm["X_scvi"])


# ---- what is refused

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unfrozen": ({"unfrozen": "everything"}, InputError, "unfrozen='everything' is unknown"),
    "share": ({"min_shared": 0}, InputError, "min_shared=0 must be a number above 0 and at most 1"),
    "key": ({"key": "scvii"}, MissingKeyError, "the reference: uns has no key 'scvii'. Did you mean 'scvi'"),
    "name": ({"key_added": "a/b"}, InputError, "cannot be a key in an h5ad"),
    "epochs": ({"max_epochs": -1}, InputError, "max_epochs=-1 must be a whole number"),
    "option": ({"max_epoch": 1}, TypeError, "unexpected argument 'max_epoch'. Did you mean 'max_epochs'"),
    "layer": ({"layer": "umi"}, MissingKeyError, "tl.map_query reads the query as the fit did, but adata has no layer"),
    "reference": ({"reference": "atlas.h5ad"}, InputError, "reference='atlas.h5ad' is not there"),
    "normalised": ({"layer": "lognorm"}, InputError, r"layers\['lognorm'\] holds values that are not whole numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_changes(case: str):
    options, error, message = REFUSED[case]
    query = query_for("zinb")
    before = contents(query)
    with pytest.raises(error, match=message):
        tl.map_query(query, **{"reference": fit("zinb"), **options})
    assert_same(contents(query), before)


def _without_batch(query: ad.AnnData) -> None:
    del query.obs["batch"]


def _with_gaps(query: ad.AnnData) -> None:
    query.obs["batch"] = query.obs["batch"].where(query.obs["batch"] == "b1")


def _of_other_genes(query: ad.AnnData) -> None:
    query.var_names = [f"ENSG{i}" for i in range(query.n_vars)]


def _with_genes_twice(query: ad.AnnData) -> None:
    query.var_names = ["gene0", "gene0", *query.var_names[2:]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_without_batch, MissingKeyError, "tl.map_query reads the query as the fit did, but obs has no column 'batch'"),
        (_with_gaps, InputError, r"obs\['batch'\] is missing \(NaN\)"),
        (_of_other_genes, InputError, "lacks 20 of the model's 20 features.* may be of another kind"),
        (_with_genes_twice, InputError, "var_names holds 'gene0' more than once"),
    ],
)
def test_a_query_that_cannot_be_read_is_left_alone(change: Any, error: type[Exception], message: str):
    query = query_for("zinb")
    change(query)
    before = contents(query)
    with pytest.raises(error, match=message):
        tl.map_query(query, fit("zinb"))
    assert_same(contents(query), before)


def test_a_reference_is_not_mapped_onto_itself():
    reference = fit("zinb").copy()
    before = contents(reference)
    with pytest.raises(InputError, match="query and reference are the same object"):
        tl.map_query(reference, reference)
    assert_same(contents(reference), before)


def test_a_view_becomes_an_object():
    cells = query_for("zinb")
    before = contents(cells)
    query = cells[10:30]
    tl.map_query(query, fit("zinb"), max_epochs=0)
    assert not query.is_view and query.obsm["X_scvi"].shape == (20, QUICK["n_latent"])
    assert_same(contents(cells), before)
    assert get.model_info(query)["model"] == "scvi"


def test_a_damaged_reference_is_refused():
    reference = fit("zinb").copy()
    blob = reference.uns["scvi"]["model"]["blob"].copy()
    blob[-1] ^= 1
    reference.uns["scvi"] = {**reference.uns["scvi"], "model": {**reference.uns["scvi"]["model"], "blob": blob}}
    with pytest.raises(ModelRecordError, match="does not match its checksum"):
        tl.map_query(query_for("zinb"), reference)


def test_an_unseen_batch_says_how_to_add_it():
    with pytest.raises(InputError, match="holds 'b2', which the model has not seen.*Use tl.map_query to add it"):
        get.latent(fit("zinb"), adata_new=query_for("zinb"))


# ---- truth


@pytest.mark.slow
def test_cells_of_a_type_that_the_reference_lacks_are_not_trusted_and_others_are(judge: Judge):
    """A p-value: its mean over known cells would be 0.5, and lies a bit above, since cells of the reference are known best.

    Some 1,600 known cells in each study scatter by less than 0.01 by themselves; the fits scatter by 0.025.
    """
    trusted_more, means, small = [], [], []
    for seed in seeds(3):
        adata = svp.datasets.simulate_rna(4000, 300, n_types=5, n_batches=1, type_separation=5.0, rng=seed)
        half = np.random.default_rng(seed).random(adata.n_obs) < 0.5
        reference = adata[half & (adata.obs["cell_type"] != "type4")].copy()
        query = adata[~half].copy()
        tl.scvi(reference, denoise=False, rng=seed)
        tl.map_query(query, reference, rng=seed)
        new = (query.obs["cell_type"] == "type4").to_numpy()
        confidence = query.obs["scvi_mapping_confidence"].to_numpy()
        trusted_more.append((confidence[~new][:, None] > confidence[new]).mean())
        means.append(confidence[~new].mean())
        small.append((confidence[~new] < 0.05).mean())
    judge("map_query: chance that a known cell is trusted more than one of a new type", trusted_more, above=0.6)
    judge("map_query: mean confidence of known cells", means, above=0.4, below=0.64)
    judge("map_query: share of known cells below 0.05", small, below=0.07)
