"""tl.totalvi: what may be set, which proteins are measured where, and what follows.

What it keeps as every verb of several modalities is in test_contract_multimodal.py.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.fitted import from_record
from scvi_pp._data.modalities import multimodal
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError
from tests.contract import QUICK

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]

N_CELLS, N_PROTEINS = 60, 5


@cache
def _simulated() -> MuData:
    whole = svp.datasets.simulate_multiome(N_CELLS, 20, n_regions=10, n_proteins=N_PROTEINS)
    return multimodal({name: whole[name].copy() for name in ("rna", "protein")}, whole.obs)


def cells() -> MuData:
    """With columns of every kind that a model reads."""
    mdata = copied(_simulated())
    mdata.obs["sex"] = ["m", "f", "f"] * 20
    mdata.obs["age"] = np.arange(N_CELLS) % 7
    mdata.obs["size"] = np.linspace(0.5, 2, N_CELLS)
    mdata["rna"].var["chosen"] = np.arange(20) % 3 > 0
    for modality in mdata.mod.values():
        modality.layers["counts"] = modality.X.copy()
    return mdata


def without(mdata: MuData, batch: str, proteins: list[str]) -> MuData:
    """The same where a batch has no counts of some proteins."""
    counts = mdata["protein"].to_df()
    counts.loc[(mdata["protein"].obs["batch"] == batch).to_numpy(), proteins] = 0
    mdata["protein"].X = counts.to_numpy()
    return mdata


def fitted(mdata: MuData | None = None, **options) -> MuData:
    mdata = cells() if mdata is None else mdata
    tl.totalvi(mdata, **{**QUICK, "max_epochs": 2, "denoise": False, **options})
    return mdata


def params(mdata: MuData) -> dict:
    return mdata.uns["totalvi"]["params"]


def has_adversary(mdata: MuData) -> bool:
    return any(name.startswith("adversary.") for name in from_record(mdata.uns, "totalvi").weights)


# ---- every option

OPTIONS = [
    {"gene_likelihood": "zinb"},
    {"dispersion": "gene-batch", "batch_key": "batch"},
    {"protein_dispersion": "protein-batch", "batch_key": "batch"},
    {"empirical_background": False},
    {"use_observed_lib_size": False},
    {"batch_key": "batch"},
    {"batch_key": "batch", "adversarial_mixing": True},
    {"batch_key": "batch", "encode_covariates": False},
    {"latent_distribution": "ln"},
    {"batch_key": "batch", "categorical_covariate_keys": "sex", "continuous_covariate_keys": "age"},
    {"rna_size_factor_key": "size"},
    {"n_layers_encoder": 1, "n_layers_decoder": 2},
    {"dropout_rate": 0.0},
    {"use_batch_norm": "none", "use_layer_norm": "both"},
    {"rna_mask_var": "chosen"},
]


@cache
def plain() -> np.ndarray:
    return fitted().obsm["X_totalvi"]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(f"{k}={v}" for k, v in options.items()))
def test_every_option_is_recorded_and_its_latent_is_its_own(options: dict):
    mdata = fitted(**options)
    for name in ("rna", "protein"):
        assert np.isfinite(get.denoised(mdata, mod=name)).all(axis=None)
    assert np.isfinite(mdata.uns["totalvi"]["history"]["elbo_train"]).all()
    assert {name: params(mdata)[name] for name in options} == options
    assert not np.array_equal(mdata.obsm["X_totalvi"], plain())


def test_defaults_are_those_of_the_paper():
    mdata = cells()
    tl.totalvi(mdata, max_epochs=1, denoise=False, device="cpu")
    expected = {"n_latent": 20, "n_hidden": 256, "n_layers_encoder": 2, "n_layers_decoder": 1, "dropout_rate": 0.2}
    assert {name: params(mdata)[name] for name in expected} == expected


def test_counts_are_read_from_the_layers_that_are_named():
    mdata = cells()
    for modality in mdata.mod.values():
        modality.X = modality.X.log1p()
    found = fitted(mdata, rna_layer="counts", protein_layer="counts")
    np.testing.assert_array_equal(found.obsm["X_totalvi"], plain())


def test_names_of_modalities_do_not_matter_if_features_tell_or_they_are_given():
    whole = cells()
    told = fitted(MuData({"y": whole["protein"].copy(), "x": whole["rna"].copy()}))
    given = MuData({"y": whole["protein"].copy(), "x": whole["rna"].copy()})
    for modality in given.mod.values():
        del modality.var["feature_types"]
    fitted(given, rna="x", protein="y")
    np.testing.assert_array_equal(given.obsm["X_totalvi"], told.obsm["X_totalvi"])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of mudata
def test_a_gene_and_a_protein_may_have_one_name():
    mdata = cells()
    mdata["protein"].var_names = ["gene1", *mdata["protein"].var_names[1:]]
    fitted(MuData({name: mdata[name].copy() for name in ("rna", "protein")}))


REFUSED = [
    ({"gene_likelihood": "poisson"}, "gene_likelihood='poisson' is unknown"),
    ({"dispersion": "gene-cell"}, "dispersion='gene-cell' is unknown"),
    ({"protein_dispersion": "gene"}, "protein_dispersion='gene' is unknown"),
    ({"adversarial_mixing": "yes"}, "adversarial_mixing='yes' must be True or False"),
    ({"empirical_background": None}, "empirical_background=None must be True or False"),
    ({"n_latent": 0}, "n_latent=0 must be a whole number of at least 1"),
    ({"dropout_rate": 1}, "dropout_rate=1 must be a number of at least 0 and below 1"),
    ({"rna_size_factor_key": 3}, "rna_size_factor_key=3 must be the name"),
    ({"missing_proteins": "all"}, "missing_proteins='all' must be 'zeros', None, or the names"),
    ({"missing_proteins": {"batch1": ["protein1"]}}, "missing_proteins .*needs batch_key"),
    (
        {"missing_proteins": {"b": ["protein1"]}, "batch_key": "batch"},
        "missing_proteins names the batch 'b', which no cell is of.*Batches: batch1, batch2",
    ),
    (
        {"missing_proteins": {"batch1": ["protein9"]}, "batch_key": "batch"},
        "missing_proteins names 'protein9' for 'batch1', which are no proteins of.*Did you mean 'protein",
    ),
    (
        {"missing_proteins": {"batch1": ["protein1"], "batch2": "protein1"}, "batch_key": "batch"},
        "leaves no batch in which 'protein1' were measured",
    ),
    ({"protein_names_uns_key": "names"}, "needs protein_obsm"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_impossible_option_is_refused_with_the_way_out(options: dict, message: str):
    mdata = cells()
    with pytest.raises(InputError, match=message):
        fitted(mdata, **options)
    assert "totalvi" not in mdata.uns


# ---- which proteins were measured where


def test_a_protein_without_counts_in_a_batch_was_not_measured_there_and_that_is_said(capfd):
    mdata = without(cells(), "batch2", ["protein2", "protein4"])
    with svp.settings.override(verbosity=1):
        fitted(mdata, batch_key="batch")
    said = capfd.readouterr().err
    assert "Batch 'batch2' has no count of 2 proteins that other batches have: protein2, protein4" in said
    assert "missing_proteins=None takes zeros for zeros" in said
    assert params(mdata)["missing_proteins"] == "zeros"
    assert params(mdata)["proteins_not_measured"] == "batch2: protein2, protein4"
    assert has_adversary(mdata)


def test_zeros_are_zeros_if_asked_for(capfd):
    mdata = without(cells(), "batch2", ["protein2"])
    with svp.settings.override(verbosity=1):
        fitted(mdata, batch_key="batch", missing_proteins=None)
    assert capfd.readouterr().err == ""
    assert params(mdata)["missing_proteins"] == "none"
    assert not has_adversary(mdata)


def test_counts_that_are_said_not_to_be_measured_are_not_looked_at():
    given = {"missing_proteins": {"batch2": ["protein2", "protein4"]}, "batch_key": "batch"}
    one, other = fitted(cells(), **given), fitted(without(cells(), "batch2", ["protein2", "protein4"]), **given)
    np.testing.assert_array_equal(one.obsm["X_totalvi"], other.obsm["X_totalvi"])
    by_zeros = fitted(without(cells(), "batch2", ["protein2", "protein4"]), batch_key="batch")
    np.testing.assert_array_equal(one.obsm["X_totalvi"], by_zeros.obsm["X_totalvi"])


def test_a_protein_that_is_nowhere_has_zeros():
    mdata = without(without(cells(), "batch1", ["protein3"]), "batch2", ["protein3"])
    fitted(mdata, batch_key="batch")
    assert "proteins_not_measured" not in params(mdata)
    assert np.isfinite(get.denoised(mdata, mod="protein")).all(axis=None)


def test_what_was_decided_is_remembered_for_cells_that_come_later():
    """Of one cell of the batch nobody could tell that its proteins were not measured."""
    mdata = fitted(without(cells(), "batch2", ["protein2"]), batch_key="batch")
    alone = np.flatnonzero(mdata.obs["batch"] == "batch2")[:1]
    some = copied(mdata[alone])
    some["protein"].X = some["protein"].X * 0 + 5
    filled = copied(some)
    some["protein"].X[:, 1] = 0
    np.testing.assert_array_equal(get.latent(mdata, adata_new=some), get.latent(mdata, adata_new=filled))


@pytest.mark.parametrize(("mixing", "expected"), [(None, True), (False, False), (True, True)])
def test_a_batch_without_proteins_is_mixed_by_an_adversary_unless_that_is_refused(mixing, expected):
    whole = cells()
    kept = (whole["protein"].obs["batch"] == "batch1").to_numpy()
    parts = {"rna": whole["rna"].copy(), "protein": whole["protein"][kept].copy()}
    mdata = fitted(multimodal(parts, whole.obs), batch_key="batch", adversarial_mixing=mixing)
    assert has_adversary(mdata) == expected
    assert params(mdata)["adversarial_mixing"] == expected


def test_without_missing_proteins_nobody_mixes():
    assert not has_adversary(fitted(batch_key="batch"))
    assert not has_adversary(fitted())


# ---- what can be asked


def test_imputed_proteins_are_those_of_the_batch_that_measured_them():
    mdata = fitted(without(cells(), "batch2", ["protein2"]), batch_key="batch")
    own, in_first = (get.denoised(mdata, mod="protein", transform_batch=batch) for batch in (None, "batch1"))
    here = (mdata.obs["batch"] == "batch2").to_numpy()
    np.testing.assert_allclose(own.loc[here, "protein2"], in_first.loc[here, "protein2"], rtol=1e-5)
    assert not np.allclose(own.loc[here, "protein1"], in_first.loc[here, "protein1"])


def test_background_is_added_to_the_foreground_if_asked_for():
    mdata = fitted(batch_key="batch")
    foreground, both = (get.denoised(mdata, mod="protein", include_background=flag) for flag in (False, True))
    chance = get.foreground_probability(mdata)
    assert (both > foreground).all(axis=None)
    named = get.likelihood_parameters(mdata, mod="protein")
    pd.testing.assert_frame_equal(foreground, chance * _mean_foreground(mdata), rtol=1e-4)
    assert chance.equals(get.foreground_probability(mdata))
    pd.testing.assert_frame_equal(named["foreground_probability"], chance, rtol=1e-5)


def _mean_foreground(mdata: MuData) -> pd.DataFrame:
    """Of counts, the efficiency of the batch taken out again."""
    stored = from_record(mdata.uns, "totalvi")
    efficiency = np.exp(stored.weights["protein_part.log_efficiency"])
    codes = pd.Categorical(mdata.obs["batch"]).codes
    return get.likelihood_parameters(mdata, mod="protein")["foreground"] / efficiency[codes]


def test_library_size_is_applied_once():
    """However many blocks of cells there are (the reference multiplies again with each)."""
    mdata = fitted()
    one, ten = (get.denoised(mdata, mod="rna", library_size=size, batch_size=7) for size in (1, 10))
    pd.testing.assert_frame_equal(ten, 10 * one, rtol=1e-5)


def test_library_sizes_are_totals_or_what_was_given_or_inferred():
    total = np.asarray(cells()["rna"].X.sum(1)).ravel()
    np.testing.assert_allclose(get.library_size(fitted()), total, rtol=1e-5)
    np.testing.assert_allclose(get.library_size(fitted(rna_size_factor_key="size")), np.linspace(0.5, 2, N_CELLS))
    inferred = get.library_size(fitted(use_observed_lib_size=False)).to_numpy()
    assert (inferred > 0).all() and not np.allclose(inferred, total)


@pytest.mark.parametrize("mod", ["rna", "protein"])
def test_every_question_has_an_answer(mod: str):
    mdata = fitted(without(cells(), "batch2", ["protein2"]), batch_key="batch")
    n_features = mdata[mod].n_vars
    assert get.samples(mdata, mod=mod).shape == (N_CELLS, n_features)
    assert get.feature_correlation(mdata, mod=mod, n_samples=2).shape == (n_features, n_features)
    assert np.isfinite(get.latent(mdata, mod=mod)).all()
    assert tl.simulate(mdata, 10, mod=mod, batches="batch2").shape == (10, n_features)
    tl.differential_expression(mdata, groupby="batch", mod=mod, n_samples=50)
    assert len(get.differential_expression(mdata)) == 2 * n_features
    tl.posterior_predictive_check(mdata, mod=mod, n_samples=2)
    assert np.isfinite(get.elbo(mdata)) and np.isfinite(get.marginal_log_likelihood(mdata, n_samples=3))
    assert get.model_info(mdata)["proteins"] == [f"protein{i}" for i in range(1, 6)]


def test_questions_about_proteins_are_refused_by_models_without():
    mdata = cells()
    tl.scvi(mdata["rna"], **QUICK)
    with pytest.raises(
        InputError, match="get.foreground_probability is for models of proteins, and uns.'scvi'. has none"
    ):
        get.foreground_probability(mdata["rna"])
    with pytest.raises(InputError, match="include_background=True is for proteins, and genes of"):
        get.denoised(mdata["rna"], include_background=True)
    with pytest.raises(InputError, match="include_background=True is for proteins, and genes of"):
        get.denoised(fitted(mdata), include_background=True)
    with pytest.raises(InputError, match="proteins names 'CD3', which the model was not fitted to"):
        get.foreground_probability(mdata, proteins="CD3")


def test_multivi_with_proteins_answers_the_same_questions():
    whole = svp.datasets.simulate_multiome(60, 20, n_regions=40, n_proteins=4)
    tl.multivi(whole, **QUICK, denoise=False)
    chance = get.foreground_probability(whole, proteins=["protein3", "protein1"])
    assert list(chance.columns) == ["protein3", "protein1"] and chance.stack().between(0, 1).all()
    foreground, both = (get.denoised(whole, mod="protein", include_background=flag) for flag in (False, True))
    assert (both > foreground).all(axis=None)


# ---- mapping


def test_a_query_with_another_panel_or_without_proteins_is_mapped():
    mdata = cells()
    is_new = (mdata.obs["batch"] == "batch2").to_numpy()
    reference, query = fitted(copied(mdata[~is_new]), batch_key="batch"), copied(mdata[is_new])
    fewer = MuData({"rna": query["rna"].copy(), "protein": query["protein"][:, :3].copy()})
    none = MuData({"rna": query["rna"].copy()})
    alone = MuData({"protein": query["protein"].copy()})
    for other in (query, fewer, none, alone):
        tl.map_query(other, reference, max_epochs=2, min_shared=0.5)
        assert np.isfinite(other.obsm["X_totalvi"]).all()
        assert np.isfinite(get.denoised(other, mod="protein")).all(axis=None)
        np.testing.assert_array_equal(get.latent(other, adata_new=reference), reference.obsm["X_totalvi"])


def test_proteins_that_a_query_lacks_are_no_zeros():
    mdata = cells()
    is_new = (mdata.obs["batch"] == "batch2").to_numpy()
    reference, query = fitted(copied(mdata[~is_new]), batch_key="batch"), copied(mdata[is_new])
    zeros = without(copied(query), "batch2", ["protein4", "protein5"])
    fewer = MuData({"rna": query["rna"].copy(), "protein": query["protein"][:, :3].copy()})
    for other in (zeros, fewer):
        tl.map_query(other, reference, max_epochs=0)
    np.testing.assert_allclose(fewer.obsm["X_totalvi"], zeros.obsm["X_totalvi"], atol=1e-6)
