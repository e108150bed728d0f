"""tl.scvi: what may be set, and what follows from it. What every model verb keeps is in test_contract.py."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError, TrainingError
from tests.contract import QUICK, assert_same, contents
from tests.fits import MODELS, cells, fit, model_of

pytestmark = pytest.mark.usefixtures("quiet")

LIKELIHOODS = ("zinb", "nb", "poisson", "normal")
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")


def fitted(**options):
    adata = cells()
    tl.scvi(adata, **{**QUICK, **options})
    return adata


# ---- every model


@pytest.mark.parametrize(("likelihood", "dispersion"), list(itertools.product(LIKELIHOODS, DISPERSIONS)))
def test_every_likelihood_goes_with_every_dispersion(likelihood: str, dispersion: str):
    labels = {"labels_key": "type"} if dispersion == "gene-label" else {}
    layer = "lognorm" if likelihood == "normal" else "counts"
    adata = fitted(
        gene_likelihood=likelihood, dispersion=dispersion, batch_key="batch", layer=layer, max_epochs=3, **labels
    )
    assert np.isfinite(adata.obsm["X_scvi"]).all()
    np.testing.assert_allclose(adata.layers["scvi_denoised"].sum(1), 1, rtol=1e-4)
    assert np.isfinite(adata.uns["scvi"]["history"]["elbo_train"]).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_recorded_and_its_latent_is_its_own(name: str):
    adata = fit(name)
    params = adata.uns[model_of(name)]["params"]
    for option, value in MODELS[name].items():
        assert params[option] == (", ".join(value) if isinstance(value, list) else value)
    if name != "zinb":
        assert not np.array_equal(adata.obsm[f"X_{model_of(name)}"], fit("zinb").obsm["X_scvi"])


@pytest.mark.parametrize("where", ["encoder", "decoder", "both", "none"])
@pytest.mark.parametrize("norm", ["use_batch_norm", "use_layer_norm"])
def test_norms_can_be_placed(norm: str, where: str):
    adata = fitted(**{norm: where}, batch_key="batch", n_layers=2)
    assert np.isfinite(adata.obsm["X_scvi"]).all()
    assert svp.get.model_info(adata)["hyperparameters"][norm] == where


@pytest.mark.parametrize("deeply", [True, False])
@pytest.mark.parametrize("encode", [True, False])
@pytest.mark.parametrize("representation", ["one-hot", "embedding"])
def test_covariates_may_go_wherever_they_are_wanted(representation: str, encode: bool, deeply: bool):
    adata = fitted(
        batch_key="batch",
        batch_representation=representation,
        encode_covariates=encode,
        deeply_inject_covariates=deeply,
        categorical_covariate_keys=["sex", "site"],
        continuous_covariate_keys=["mito", "age"],
        n_layers=2,
    )
    moved = adata.copy()
    moved.obs["mito"] = moved.obs["mito"] + 1
    moved.obs["batch"] = "b0"
    seen = not np.allclose(get.latent(adata, adata_new=moved), adata.obsm["X_scvi"])
    assert seen == encode  # the encoder sees covariates if asked to, and only then
    assert not np.allclose(get.denoised(adata, adata_new=moved), get.denoised(adata))


def test_sizes_are_as_asked():
    adata = fitted(n_latent=7, n_hidden=5, n_layers=3, batch_key="batch", n_batch_embedding=2)
    assert adata.obsm["X_scvi"].shape == (60, 7)
    hyperparameters = get.model_info(adata)["hyperparameters"]
    assert {name: hyperparameters[name] for name in ("n_hidden", "n_layers")} == {"n_hidden": 5, "n_layers": 3}


# ---- what is read


def test_several_batch_keys_are_one_batch_for_each_combination():
    adata = fitted(batch_key=["batch", "sex"])
    assert get.model_info(adata)["batches"] == ["b0 | False", "b0 | True", "b1 | False", "b1 | True"]
    pasted = cells()
    pasted.obs["both"] = pd.Categorical(
        [f"{b}-{s}" for b, s in zip(pasted.obs["batch"], pasted.obs["sex"], strict=True)]
    )
    tl.scvi(pasted, **QUICK, batch_key="both")
    np.testing.assert_array_equal(adata.obsm["X_scvi"], pasted.obsm["X_scvi"])
    one = get.denoised(adata, transform_batch=("b0", True))
    np.testing.assert_array_equal(one, get.denoised(pasted, transform_batch="b0-True"))


def test_one_key_or_a_list_of_it_is_the_same():
    for option in ("batch_key", "categorical_covariate_keys"):
        one, several = (fitted(**{option: key}).obsm["X_scvi"] for key in ("batch", ["batch"]))
        np.testing.assert_array_equal(one, several)


def test_mask_models_the_chosen_genes_alone():
    adata = fitted(mask_var="chosen")
    chosen = cells()
    chosen = chosen[:, chosen.var["chosen"]].copy()
    tl.scvi(chosen, **QUICK)
    np.testing.assert_array_equal(adata.obsm["X_scvi"], chosen.obsm["X_scvi"])
    assert get.model_info(adata)["genes"] == list(chosen.var_names)


def test_scale_of_a_continuous_covariate_does_not_matter():
    adata = cells()
    adata.obs["mito_percent"] = 100 * adata.obs["mito"] + 7
    latents = []
    for key in ("mito", "mito_percent"):
        tl.scvi(adata, **{**QUICK, "max_epochs": 3}, continuous_covariate_keys=key, encode_covariates=True)
        latents.append(adata.obsm["X_scvi"].copy())
    np.testing.assert_allclose(*latents, atol=1e-4)


def test_normal_likelihood_takes_log_normalised_values():
    adata = cells()
    adata.X = adata.layers["lognorm"]
    tl.scvi(adata, **QUICK, gene_likelihood="normal")
    assert np.isfinite(adata.obsm["X_scvi"]).all()


def test_labels_without_use_are_remarked_on_and_not_read(capfd):
    adata = cells()
    with svp.settings.override(verbosity=1):
        tl.scvi(adata, **QUICK, labels_key="no such column")
    assert "labels_key is used by dispersion='gene-label' alone" in capfd.readouterr().err


# ---- what cannot be

REFUSED = [
    ({"gene_likelihood": "zimb"}, r"gene_likelihood='zimb' is unknown\. Did you mean 'zinb'\? Choose one of 'zinb', "),
    ({"dispersion": "cell"}, "dispersion='cell' is unknown.* Choose one of 'gene', 'gene-batch'"),
    ({"dispersion": ["gene"]}, r"dispersion=\['gene'\] is unknown"),
    ({"latent_distribution": "lognormal"}, "latent_distribution='lognormal' is unknown"),
    ({"batch_representation": "one_hot"}, "Did you mean 'one-hot'"),
    ({"use_batch_norm": True}, "use_batch_norm=True is unknown"),
    ({"use_observed_lib_size": "yes"}, "use_observed_lib_size='yes' must be True or False"),
    ({"encode_covariates": 1}, "encode_covariates=1 must be True or False"),
    ({"dropout_rate": 1.0}, "dropout_rate=1.0 must be a number of at least 0 and below 1"),
    ({"dropout_rate": float("nan")}, "dropout_rate=nan must be a number"),
    ({"n_hidden": 0}, "n_hidden=0 must be a whole number of at least 1"),
    ({"n_layers": -1}, "n_layers=-1 must be a whole number of at least 1"),
    ({"n_layers": True}, "n_layers=True must be a whole number of at least 1"),
    ({"n_batch_embedding": "2"}, "n_batch_embedding='2' must be a whole number of at least 1"),
    ({"dispersion": "gene-label"}, "dispersion='gene-label' needs labels_key"),
    ({"batch_key": 3}, "batch_key takes the name of an obs column or a list of names, not 3"),
    ({"batch_key": ["batch", "batch"]}, "batch_key names 'batch' twice"),
    ({"categorical_covariate_keys": {"sex"}}, "categorical_covariate_keys takes the name of an obs column or a list"),
    ({"layer": 3}, "layer takes the name of a layer, not 3"),
    ({"mask_var": 3}, "mask_var takes the name of a var column, not 3"),
    ({"continuous_covariate_keys": "site"}, r"obs\['site'\] holds category, not numbers"),
    ({"size_factor_key": 3}, "size_factor_key=3 must be the name of an obs column"),
    ({"labels_key": ["type"]}, r"labels_key=\['type'\] must be the name of an obs column"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_impossible_option_is_refused_with_the_way_out(options: dict, message: str):
    adata = cells()
    before = contents(adata)
    with pytest.raises(InputError, match=message):
        tl.scvi(adata, **{**QUICK, **options})
    assert_same(contents(adata), before)


@pytest.mark.parametrize(
    ("option", "key", "message"),
    [
        ("labels_key", "typ", "obs has no column 'typ'. Did you mean 'type'"),
        ("size_factor_key", "sise", "obs has no column 'sise'. Did you mean 'size'"),
        ("categorical_covariate_keys", ["sex", "cite"], "obs has no column 'cite'. Did you mean 'site'"),
        ("continuous_covariate_keys", "mitto", "obs has no column 'mitto'. Did you mean 'mito'"),
        ("mask_var", "highly_variable", "var has no column 'highly_variable'. Columns: chosen"),
    ],
)
def test_missing_column_is_named_with_the_near_ones(option: str, key, message: str):
    adata = cells()
    dispersion = "gene-label" if option == "labels_key" else "gene"
    before = contents(adata)
    with pytest.raises(MissingKeyError, match=message):
        tl.scvi(adata, **QUICK, dispersion=dispersion, **{option: key})
    assert_same(contents(adata), before)


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("size_factor_key", np.zeros(60), "is zero or negative in 60 of 60 cells"),
        ("size_factor_key", np.r_[np.nan, np.ones(59)], r"is missing \(NaN\) in 1 of 60 cells"),
        ("continuous_covariate_keys", np.r_[np.inf, np.ones(59)], "is infinite in 1 of 60 cells"),
        ("continuous_covariate_keys", np.r_[np.nan, np.ones(59)], r"is missing \(NaN\) in 1 of 60 cells"),
        ("categorical_covariate_keys", [None, *["a"] * 59], r"is missing \(NaN\) in 1 of 60 cells"),
        ("labels_key", [None, *["a"] * 59], r"is missing \(NaN\) in 1 of 60 cells"),
    ],
)
def test_columns_with_impossible_values_are_refused(option: str, values, message: str):
    adata = cells()
    adata.obs["odd"] = values
    dispersion = "gene-label" if option == "labels_key" else "gene"
    before = contents(adata)
    with pytest.raises(InputError, match=rf"obs\['odd'\] {message}"):
        tl.scvi(adata, **QUICK, dispersion=dispersion, **{option: "odd"})
    assert_same(contents(adata), before)


def test_constant_covariate_gives_finite_results():
    adata = cells()
    adata.obs["constant"] = 5.0
    tl.scvi(adata, **QUICK, continuous_covariate_keys="constant", encode_covariates=True)
    assert np.isfinite(adata.obsm["X_scvi"]).all()


def test_scaled_values_are_refused_by_a_normal_likelihood():
    """Log values are never negative; the encoder takes their logarithm."""
    adata = cells()
    dense = adata.X.toarray()
    adata.layers["scaled"] = (dense - dense.mean(0)) / dense.std(0)
    before = contents(adata)
    with pytest.raises((InputError, TrainingError)):
        tl.scvi(adata, **QUICK, gene_likelihood="normal", layer="scaled")
    assert_same(contents(adata), before)


def test_scaled_values_are_refused_for_the_normal_likelihood():
    adata = cells()
    adata.X = np.log1p(adata.X.toarray()) - 1
    with pytest.raises(InputError, match="it looks scaled.*before sc.pp.scale"):
        tl.scvi(adata, gene_likelihood="normal", max_epochs=1)
    assert "scvi" not in adata.uns
