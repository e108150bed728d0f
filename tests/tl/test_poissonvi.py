"""tl.poissonvi: what may be set, and what follows from it. What every model verb keeps is in test_contract.py."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError
from scvi_pp.tl import _chromatin
from tests.contract import QUICK, assert_same, contents
from tests.fits import POISSONVI, fit, fragments

pytestmark = pytest.mark.usefixtures("quiet")


def fitted(**options):
    adata = fragments()
    tl.poissonvi(adata, **{**QUICK, **options})
    return adata


# ---- fragments


def warned(adata, capfd, **options) -> str:
    capfd.readouterr()
    with svp.settings.override(verbosity=1):
        tl.poissonvi(adata, **QUICK, denoise=False, **options)
    return capfd.readouterr().err


def test_counts_of_fragments_are_taken_without_remark(capfd):
    assert warned(fragments(), capfd) == ""


def test_binary_data_are_remarked_on(capfd):
    adata = fragments()
    adata.layers["binary"] = adata.X.sign()
    said = warned(adata, capfd, layer="binary")
    assert "layers['binary'] is binary, and PoissonVI gains from how many fragments there are" in said
    assert "svp.pp.reads_to_fragments" in said
    assert "tl.peakvi" in said
    assert "X_poissonvi" in adata.obsm


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_counts_of_reads_are_remarked_on_with_what_makes_fragments_of_them(at_once: int, capfd, monkeypatch):
    monkeypatch.setattr(_chromatin, "ENTRIES_AT_ONCE", at_once)
    adata = fragments()
    adata.X = 2 * adata.X  # both ends of each
    adata.X.data[:3] = 1  # but for a few
    said = warned(adata, capfd)
    twos = int((adata.X.data == 2).sum())
    assert f"X looks like counts of reads ({twos:,} twos and 3 ones" in said
    assert "svp.pp.reads_to_fragments makes counts of fragments" in said
    made = svp.pp.reads_to_fragments(adata, copy=True)
    assert warned(made, capfd, layer="fragments") == ""


def test_counts_are_not_their_binary_form():
    counts, binary = fragments(), fragments()
    binary.X = binary.X.sign()
    for adata in (counts, binary):
        tl.poissonvi(adata, **QUICK)
    assert not np.allclose(counts.obsm["X_poissonvi"], binary.obsm["X_poissonvi"])


# ---- what may be set


@pytest.mark.parametrize("name", POISSONVI)
def test_every_option_is_recorded_and_its_latent_is_its_own(name: str):
    adata = fit(name)
    params = adata.uns["poissonvi"]["params"]
    for option, value in POISSONVI[name].items():
        assert params[option] == (", ".join(value) if isinstance(value, list) else value)
    if name != "poissonvi":
        assert not np.array_equal(adata.obsm["X_poissonvi"], fit("poissonvi").obsm["X_poissonvi"])


@pytest.mark.parametrize(("n_regions", "n_hidden", "n_latent"), [(20, 4, 2), (100, 10, 3), (1, 1, 1)])
def test_widths_are_those_of_peakvi(n_regions: int, n_hidden: int, n_latent: int):
    adata = fragments(40, n_regions)
    tl.poissonvi(adata, max_epochs=1, device="cpu")
    hyperparameters = get.model_info(adata)["hyperparameters"]
    assert (hyperparameters["n_hidden"], hyperparameters["n_latent"]) == (n_hidden, n_latent)
    assert adata.obsm["X_poissonvi"].shape == (40, n_latent)


@pytest.mark.parametrize("where", ["encoder", "decoder", "both", "none"])
@pytest.mark.parametrize("norm", ["use_batch_norm", "use_layer_norm"])
def test_norms_can_be_placed(norm: str, where: str):
    adata = fitted(**{norm: where}, batch_key="batch")
    assert np.isfinite(adata.obsm["X_poissonvi"]).all()
    assert get.model_info(adata)["hyperparameters"][norm] == where


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
        max_epochs=3,
    )
    moved = adata.copy()
    moved.obs["mito"] = moved.obs["mito"] + 1
    moved.obs["batch"] = "b0"
    seen = not np.allclose(get.latent(adata, adata_new=moved), adata.obsm["X_poissonvi"])
    assert seen == encode
    assert not np.allclose(get.denoised(adata, adata_new=moved), get.denoised(adata))


def test_a_size_factor_may_be_larger_than_one():
    adata = fitted(size_factor_key="size")
    assert (adata.obs["size"] > 1).any()
    np.testing.assert_allclose(get.library_size(adata), adata.obs["size"], rtol=1e-6)


def test_without_observed_library_it_is_inferred():
    observed, inferred = fitted(), fitted(use_observed_lib_size=False)
    totals = np.asarray(observed.X.sum(1)).ravel()
    np.testing.assert_allclose(get.library_size(observed), totals, rtol=1e-5)
    assert not np.allclose(get.library_size(inferred), totals, rtol=1e-2)
    assert get.model_info(inferred)["n_parameters"] > get.model_info(observed)["n_parameters"]


# ---- what cannot be

REFUSED = [
    ({"latent_distribution": "lognormal"}, "latent_distribution='lognormal' is unknown"),
    ({"batch_representation": "one_hot"}, "Did you mean 'one-hot'"),
    ({"use_layer_norm": True}, "use_layer_norm=True is unknown"),
    ({"use_observed_lib_size": "yes"}, "use_observed_lib_size='yes' must be True or False"),
    ({"encode_covariates": 1}, "encode_covariates=1 must be True or False"),
    ({"deeply_inject_covariates": 1}, "deeply_inject_covariates=1 must be True or False"),
    ({"dropout_rate": -0.1}, "dropout_rate=-0.1 must be a number of at least 0 and below 1"),
    ({"n_hidden": 0}, "n_hidden=0 must be a whole number of at least 1"),
    ({"n_layers": 0}, "n_layers=0 must be a whole number of at least 1"),
    ({"n_batch_embedding": "2"}, "n_batch_embedding='2' must be a whole number of at least 1"),
    ({"size_factor_key": 3}, "size_factor_key=3 must be the name of an obs column"),
    ({"mask_var": 3}, "mask_var takes the name of a var column, not 3"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_impossible_option_is_refused_with_the_way_out(options: dict, message: str):
    adata = fragments()
    before = contents(adata)
    with pytest.raises(InputError, match=message):
        tl.poissonvi(adata, **{**QUICK, **options})
    assert_same(contents(adata), before)


def test_size_factors_that_cannot_be_are_refused():
    adata = fragments()
    adata.obs["odd"] = np.r_[0, np.ones(59)]
    with pytest.raises(InputError, match=r"obs\['odd'\] is zero or negative in 1 of 60 cells"):
        tl.poissonvi(adata, **QUICK, size_factor_key="odd")
    with pytest.raises(MissingKeyError, match="obs has no column 'sise'. Did you mean 'size'"):
        tl.poissonvi(adata, **QUICK, size_factor_key="sise")


def test_dense_counts_are_looked_at_too(capfd):
    adata = fragments()
    adata.X = np.sign(adata.X.toarray())
    assert "is binary" in warned(adata, capfd)
    adata.X = sp.csc_matrix(adata.X)
    assert "is binary" in warned(adata, capfd)
