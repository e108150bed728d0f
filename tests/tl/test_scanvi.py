"""tl.scanvi and tl.predict_labels: cells that have a label, and cells that are given one."""

from __future__ import annotations

from functools import cache
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import assert_only_added, assert_same, contents
from tests.fits import OPTIONS, cells, fit
from tests.studies import Judge, seeds
from tests.tl.test_map_query import query_for

pytestmark = pytest.mark.usefixtures("quiet")

PLACES = {"obs[scanvi]", "obs[scanvi_entropy]", "obsm[scanvi_probabilities]"}


def fitted(name: str = "scanvi") -> ad.AnnData:
    return fit(name).copy()


# ---- what is written


def test_labels_entropy_and_probabilities_say_the_same():
    adata = fitted()
    probabilities = adata.obsm["scanvi_probabilities"]
    assert probabilities.dtype == np.float32 and probabilities.shape == (60, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert adata.obs["scanvi"].cat.categories.tolist() == ["t0", "t1"]
    assert (adata.obs["scanvi"].cat.codes == probabilities.argmax(1)).all()
    np.testing.assert_allclose(adata.obs["scanvi_entropy"], entropy(probabilities, axis=1), rtol=1e-4, atol=1e-6)
    params = adata.uns["scanvi"]["params"]
    assert (params["n_labels"], params["n_labelled"]) == (2, adata.obs["known"].notna().sum())
    assert 0 <= params["held_out_accuracy"] <= 1
    history = adata.uns["scanvi"]["history"]
    assert len(history["supervision_train"]) == len(history["supervision_validation"]) == params["n_epochs"]


def test_nan_and_the_unlabeled_category_say_the_same():
    one, other = cells(), cells()
    other.obs["known"] = other.obs["known"].astype(str).replace("nan", "Unknown")
    tl.scanvi(one, "known", **OPTIONS)
    tl.scanvi(other, "known", unlabeled_category="Unknown", **OPTIONS)
    np.testing.assert_array_equal(one.obsm["X_scanvi"], other.obsm["X_scanvi"])
    np.testing.assert_array_equal(one.obsm["scanvi_probabilities"], other.obsm["scanvi_probabilities"])


def test_a_label_that_looks_like_none_is_remarked_on(caplog):
    adata = cells()
    adata.obs["known"] = adata.obs["known"].astype(str).replace("nan", "Unknown")
    with svp.settings.override(verbosity=1):
        tl.scanvi(adata, "known", **OPTIONS)
    assert "obs['known'] holds 'Unknown', which is taken for a label like any other" in caplog.text
    assert "unlabeled_category='Unknown'" in caplog.text


def test_cells_of_rare_labels_are_not_held_out():
    """The only cell of a label is learned from, whichever cells a split would take."""
    adata = cells()
    for rows in (slice(0, 30), slice(30, 60)):
        adata.obs["one each"] = np.where(np.isin(np.arange(60), np.arange(60)[rows]), adata.obs_names, None)
        tl.scanvi(adata, "one each", **{**OPTIONS, "validation_size": 0.5})
        params = adata.uns["scanvi"]["params"]
        assert params["n_labelled"] == 30 and "held_out_accuracy" not in params


def test_all_cells_may_have_a_label():
    adata = cells()
    tl.scanvi(adata, "type", **OPTIONS)
    assert adata.uns["scanvi"]["params"]["n_labelled"] == 60


@pytest.mark.parametrize(
    "options",
    [
        {"linear_classifier": True},
        {"latent_distribution": "ln"},
        {"n_samples_per_label": 5},
        {"classification_weight": 0},
        {"encode_covariates": True, "categorical_covariate_keys": "sex", "continuous_covariate_keys": "mito"},
        {"batch_representation": "embedding"},
        {"dispersion": "gene-cell"},
        {"gene_likelihood": "normal", "layer": "lognorm"},
        {"use_observed_lib_size": False},
        {"size_factor_key": "size"},
        {"n_layers": 2, "use_layer_norm": "both", "use_batch_norm": "none"},
        {"validation_size": 0},
    ],
    ids=str,
)
def test_every_option_makes_a_model(options: dict[str, Any]):
    adata = cells()
    tl.scanvi(adata, "known", **{**OPTIONS, **options})
    assert np.isfinite(adata.obsm["X_scanvi"]).all() and np.isfinite(adata.obsm["scanvi_probabilities"]).all()


def test_a_file_answers_as_the_object_does(tmp_path):
    adata = fitted()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert again.obs["scanvi"].tolist() == adata.obs["scanvi"].tolist()
    tl.predict_labels(again, key_added="again")
    np.testing.assert_array_equal(again.obsm["again_probabilities"], adata.obsm["scanvi_probabilities"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_key": None}, "labels_key=None: name the obs column with the labels"),
        ({"labels_key": "batch", "unlabeled_category": "b0"}, "has one label, 'b1'"),
        ({"dispersion": "gene-label"}, "dispersion='gene-label' is unknown"),
        ({"classification_weight": -1}, "classification_weight=-1 must be a number of at least 0"),
        ({"n_samples_per_label": 0}, "n_samples_per_label=0 must be"),
        ({"linear_classifier": 1}, "linear_classifier=1 must be True or False"),
        ({"unlabeled_category": 3}, "unlabeled_category=3 must be text"),
        ({"labels_key": "mito"}, "a measurement and not a group"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(options: dict, message: str):
    adata = cells()
    before = contents(adata)
    with pytest.raises(InputError, match=message):
        tl.scanvi(adata, **{"labels_key": "known", **OPTIONS, **options})
    assert_same(contents(adata), before)


# ---- from a fitted scVI


@cache
def _from_scvi() -> ad.AnnData:
    adata = cells()
    options = {**OPTIONS, "categorical_covariate_keys": "sex", "n_latent": 3, "gene_likelihood": "nb"}
    options |= {"use_batch_norm": "none", "use_layer_norm": "both"}  # which remember no cells
    tl.scvi(adata, **options)
    tl.scanvi(adata, "known", from_key="scvi", max_epochs=1, batch_size=10, denoise=False, learning_rate=1e-9)
    return adata


def test_a_fitted_scvi_goes_on_as_it_was_fitted():
    adata = _from_scvi()
    np.testing.assert_allclose(adata.obsm["X_scanvi"], adata.obsm["X_scvi"], atol=1e-4)
    hyperparameters = get.model_info(adata, key="scanvi")["hyperparameters"]
    assert (hyperparameters["n_latent"], hyperparameters["gene_likelihood"]) == (3, "nb")
    params = adata.uns["scanvi"]["params"]
    assert (params["from_key"], params["batch_key"], params["labels_key"]) == ("scvi", "batch", "known")
    assert params["model"] == "scanvi"


def test_it_takes_few_passes():
    adata = svp.datasets.simulate_rna(2000, 10, n_types=2)
    quick = {"n_latent": 2, "n_hidden": 4, "device": "cpu", "denoise": False}
    tl.scvi(adata, max_epochs=1, **quick)
    tl.scanvi(adata, "cell_type", from_key="scvi", denoise=False)
    assert adata.uns["scanvi"]["params"]["n_epochs"] <= 9


@pytest.mark.parametrize(
    ("options", "message", "error"),
    [
        ({"n_latent": 4}, "from_key='scvi' goes on from a fitted model, and n_latent cannot be changed", InputError),
        ({"batch_key": "sex"}, "batch_key cannot be changed", InputError),
        ({"from_key": "scanvi"}, "from_key='scanvi' is a scanvi; tl.scanvi starts from a model of tl.scvi", InputError),
        ({"from_key": "other"}, "uns has no key 'other'", MissingKeyError),
    ],
)
def test_what_contradicts_the_fitted_model_is_refused(options: dict, message: str, error: type):
    adata = _from_scvi().copy()
    before = contents(adata)
    with pytest.raises(error, match=message):
        tl.scanvi(adata, **{"labels_key": "known", "from_key": "scvi", **options})
    assert_same(contents(adata), before)


def test_a_scvi_by_label_cannot_be_started_from():
    adata = fit("gene-label").copy()
    with pytest.raises(InputError, match="is a scvi whose dispersion is by label"):
        tl.scanvi(adata, "known", from_key="scvi")


# ---- tl.predict_labels


def test_a_query_is_mapped_and_labelled():
    query, reference = query_for("scanvi"), fitted()
    query.obs["known"] = "t0"  # what is not looked at
    tl.map_query(query, reference, max_epochs=2, unfrozen="all")
    other = query_for("scanvi")
    del other.obs["known"], other.obs["type"]
    tl.map_query(other, reference, max_epochs=2, unfrozen="all")
    np.testing.assert_array_equal(query.obsm["X_scanvi"], other.obsm["X_scanvi"])
    query = other
    tl.map_query(query, reference, max_epochs=2)
    before = contents(query)
    assert tl.predict_labels(query) is None
    assert_only_added(before, query, PLACES)
    assert query.obs["scanvi"].cat.categories.tolist() == ["t0", "t1"]
    np.testing.assert_array_equal(get.latent(query, adata_new=reference), reference.obsm["X_scanvi"])


@pytest.mark.parametrize("way", ["object", "entry", "h5ad"])
def test_new_cells_are_labelled_by_a_model_that_lies_elsewhere(way: str, tmp_path):
    reference, new = fitted(), cells(40, seed=3)
    new.obs = new.obs[["batch"]]
    expected = tl.predict_labels(new, reference=reference, copy=True)
    assert "scanvi" not in new.obs
    if way == "h5ad":
        reference.write_h5ad(tmp_path / "r.h5ad")
    places = {"object": reference, "entry": reference.uns["scanvi"], "h5ad": tmp_path / "r.h5ad"}
    tl.predict_labels(new, reference=places[way], key_added="found")
    assert new.obs["found"].tolist() == expected.obs["scanvi"].tolist()
    np.testing.assert_array_equal(new.obsm["found_probabilities"], expected.obsm["scanvi_probabilities"])
    assert "scanvi" not in new.uns


def test_the_cells_of_the_fit_are_labelled_as_by_the_fit_whatever_their_column_says_now():
    adata = fitted()
    adata.obs["known"] = "something else"
    tl.predict_labels(adata, key_added="again", batch_size=7)
    np.testing.assert_allclose(adata.obsm["again_probabilities"], adata.obsm["scanvi_probabilities"], atol=1e-6)


def test_draws_follow_the_seed():
    adata = fitted()
    one, same, other = (
        tl.predict_labels(adata, n_samples=3, rng=seed, copy=True).obsm["scanvi_probabilities"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_what_cannot_be_asked_is_refused():
    new = cells(40, seed=3)
    before = contents(new)
    with pytest.raises(InputError, match=r"uns\['scvi'\] is a scvi, which knows no labels. Fit tl.scanvi"):
        tl.predict_labels(new, reference=fit("zinb"))
    with pytest.raises(MissingKeyError, match="uns holds no fitted model"):
        tl.predict_labels(new)
    with pytest.raises(InputError, match="n_samples=0 must be"):
        tl.predict_labels(new, reference=fit("scanvi"), n_samples=0)
    new.obs["batch"] = "new"
    with pytest.raises(InputError, match="holds 'new', which the model has not seen.*tl.map_query"):
        tl.predict_labels(new, reference=fit("scanvi"))
    new.obs["batch"] = before["obs"]["batch"]
    with pytest.raises(InputError, match="var_names lacks 3 of the model's 20 features"):
        tl.predict_labels(new[:, 3:].copy(), reference=fit("scanvi"))
    assert_same(contents(new), before)


# ---- what other verbs make of it


def test_every_question_is_answered():
    adata = fitted()
    tl.denoise(adata, transform_batch="b0", n_samples=2)
    tl.differential_expression(adata, "type", n_samples=200, batch_correction=True, weights="importance")
    tl.posterior_predictive_check(adata, n_samples=3)
    assert np.isfinite(get.elbo(adata)) and np.isfinite(get.marginal_log_likelihood(adata, n_samples=5))
    simulated = tl.simulate(adata, 10, from_prior=True)
    assert np.isfinite(simulated.obsm["X_true"]).all()


# ---- whether it is right: in the mean over studies, see tests/studies.py

SEEDS = seeds(2)


@cache
def simulated(seed: int) -> ad.AnnData:
    """Five types in three batches, of which the last has no labels."""
    adata = svp.datasets.simulate_rna(1200, 300, n_batches=3, type_separation=2.0, batch_effect=0.3, rng=seed)
    adata.obs["known"] = adata.obs["cell_type"].where(adata.obs["batch"] != "batch2")
    tl.scanvi(adata, "known", batch_key="batch", denoise=False, device="cpu", rng=seed)
    return adata


def by_regression(adata: ad.AnnData, hidden: np.ndarray) -> float:
    """The share of hidden labels that a logistic regression on the scVI latent space finds."""
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    regression = LogisticRegression(max_iter=1000).fit(adata.obsm["X_scvi"][~hidden], truth[~hidden])
    return float((regression.predict(adata.obsm["X_scvi"]) == truth)[hidden].mean())


def found_right(adata: ad.AnnData, hidden: np.ndarray) -> float:
    """The share of hidden labels that scANVI finds."""
    return float((adata.obs["scanvi"].astype(str) == adata.obs["cell_type"].astype(str)).to_numpy()[hidden].mean())


@pytest.mark.slow
def test_the_labels_of_a_batch_that_has_none_are_found(judge: Judge):
    """As many as by a regression on the scVI latent space."""
    ours, regression, scores, held_out = [], [], [], []
    for seed in SEEDS:
        adata = simulated(seed).copy()
        hidden = adata.obs["known"].isna().to_numpy()
        tl.scvi(adata, batch_key="batch", denoise=False, device="cpu", rng=seed)
        ours.append(found_right(adata, hidden))
        regression.append(by_regression(adata, hidden))
        truth, found = (adata.obs[name].astype(str).to_numpy()[hidden] for name in ("cell_type", "scanvi"))
        scores.append(f1_score(truth, found, average="macro"))
        held_out.append(adata.uns["scanvi"]["params"]["held_out_accuracy"])
    judge("scanvi: accuracy of hidden labels", ours, above=0.82)
    judge("scanvi: accuracy beyond a regression on X_scvi", np.subtract(ours, regression), above=-0.12)
    judge("scanvi: macro F1 of hidden labels", scores, above=0.8)
    judge("scanvi: accuracy of held-out labels", held_out, above=0.82)


@pytest.mark.slow
def test_probabilities_are_as_often_right_as_they_say(judge: Judge):
    """Expected calibration error over cells whose labels were hidden, of types that overlap."""
    right, errors = [], []
    for seed in SEEDS:
        adata = svp.datasets.simulate_rna(2400, 200, n_batches=1, type_separation=1.0, library_size=100, rng=seed)
        hidden = np.arange(adata.n_obs) % 2 == 1
        adata.obs["known"] = adata.obs["cell_type"].where(~hidden)
        tl.scanvi(adata, "known", denoise=False, device="cpu", rng=seed)
        confidence = adata.obsm["scanvi_probabilities"].max(1)[hidden]
        is_right = (adata.obs["scanvi"].astype(str) == adata.obs["cell_type"].astype(str)).to_numpy()[hidden]
        step = pd.cut(confidence, np.linspace(0, 1, 11))
        table = pd.DataFrame({"confidence": confidence, "is_right": is_right}).groupby(step, observed=True)
        of_steps = (table["confidence"].mean() - table["is_right"].mean()).abs() * table.size() / len(confidence)
        right.append(is_right.mean())
        errors.append(of_steps.sum())
    judge("scanvi: accuracy where types overlap", right, above=0.5, below=0.95)
    judge("scanvi: calibration error", errors, below=0.12)


@pytest.mark.slow
def test_a_few_labels_go_as_far_as_those_of_a_regression(judge: Judge):
    """Ten of each type: of the cells without one, as many are found as by a regression on the scVI latent space."""
    beyond = []
    for seed in SEEDS:
        adata = svp.datasets.simulate_rna(900, 300, n_batches=2, type_separation=2.0, rng=seed)
        random = np.random.default_rng(seed)
        of_types = adata.obs.groupby("cell_type", observed=True).indices.values()
        rows = np.concatenate([random.choice(each, 10, replace=False) for each in of_types])
        hidden = ~np.isin(np.arange(adata.n_obs), rows)
        adata.obs["known"] = adata.obs["cell_type"].where(~hidden)
        tl.scvi(adata, batch_key="batch", denoise=False, device="cpu", rng=seed)
        tl.scanvi(adata, "known", batch_key="batch", denoise=False, device="cpu", rng=seed)
        beyond.append(found_right(adata, hidden) - by_regression(adata, hidden))
    judge("scanvi, ten labels each: accuracy beyond a regression on X_scvi", beyond, above=-0.08)


@pytest.mark.slow
def test_a_new_batch_is_mapped_and_labelled(judge: Judge):
    accuracies = []
    for seed in SEEDS:
        adata = simulated(seed)
        is_query = adata.obs["batch"] == "batch2"
        reference, query = adata[~is_query].copy(), adata[is_query].copy()
        tl.scanvi(reference, "known", batch_key="batch", denoise=False, device="cpu", rng=seed)
        for place in (query.obs, query.obsm, query.uns):
            for name in [name for name in place if "scanvi" in name]:
                del place[name]
        tl.map_query(query, reference, rng=seed)
        tl.predict_labels(query)
        accuracies.append(found_right(query, np.ones(query.n_obs, dtype=bool)))
    judge("scanvi: accuracy in a mapped batch", accuracies, above=0.65)
