"""tl.peakvi: what may be set, and what follows from it. What every model verb keeps is in test_contract.py."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_same, contents
from tests.fits import PEAKVI, fit, fragments

pytestmark = pytest.mark.usefixtures("quiet")


def fitted(**options):
    adata = fragments()
    tl.peakvi(adata, **{**QUICK, **options})
    return adata


# ---- what is read


def test_counts_and_their_binary_form_give_the_same_bits():
    counts, binary = fragments(), fragments()
    binary.X = binary.X.sign()
    assert counts.X.max() > 1
    for adata in (counts, binary):
        tl.peakvi(adata, **{**QUICK, "max_epochs": 3}, batch_key="batch")
    assert_same(binary.obsm["X_peakvi"], counts.obsm["X_peakvi"])
    assert_same(binary.layers["peakvi_denoised"], counts.layers["peakvi_denoised"])
    assert_same(binary.uns["peakvi"]["history"], counts.uns["peakvi"]["history"])
    assert_same(get.latent(counts, adata_new=binary), counts.obsm["X_peakvi"])
    assert get.elbo(counts) == get.elbo(counts, adata_new=binary)


def test_truth_values_are_open_and_closed():
    adata, expected = fragments(), fragments()
    adata.X = adata.X.astype(bool)
    for each in (adata, expected):
        tl.peakvi(each, **QUICK)
    assert_same(adata.obsm["X_peakvi"], expected.obsm["X_peakvi"])


def test_mask_models_the_chosen_regions_alone():
    adata = fitted(mask_var="chosen")
    chosen = fragments()
    chosen = chosen[:, chosen.var["chosen"]].copy()
    tl.peakvi(chosen, **QUICK)
    assert_same(adata.obsm["X_peakvi"], chosen.obsm["X_peakvi"])
    assert get.model_info(adata)["regions"] == list(chosen.var_names)


def test_cells_with_a_given_factor_have_no_network_for_it():
    inferred, given = fitted(), fitted(size_factor_key="depth")
    assert get.model_info(given)["n_parameters"] < get.model_info(inferred)["n_parameters"]
    np.testing.assert_allclose(get.library_size(given), given.obs["depth"], rtol=1e-6)
    deeper = given.copy()
    deeper.obs["depth"] = 1.0
    seen = get.likelihood_parameters(given, adata_new=deeper)["probability"]
    np.testing.assert_allclose(seen, get.denoised(given, normalize_regions=True), rtol=1e-5)


# ---- what may be set


@pytest.mark.parametrize("name", PEAKVI)
def test_every_option_is_recorded_and_its_latent_is_its_own(name: str):
    adata = fit(name)
    params = adata.uns["peakvi"]["params"]
    for option, value in PEAKVI[name].items():
        assert params[option] == (", ".join(value) if isinstance(value, list) else value)
    if name != "peakvi":
        assert not np.array_equal(adata.obsm["X_peakvi"], fit("peakvi").obsm["X_peakvi"])


@pytest.mark.parametrize(
    ("n_regions", "given", "n_hidden", "n_latent"),
    [
        (20, {}, 4, 2),
        (99, {}, 9, 3),
        (100, {}, 10, 3),
        (1, {}, 1, 1),
        (3, {}, 1, 1),
        (20, {"n_hidden": 50}, 50, 7),
        (20, {"n_latent": 5}, 4, 5),
        (20, {"n_hidden": 9, "n_latent": 8}, 9, 8),
    ],
    ids=str,
)
def test_widths_are_roots_unless_they_are_given(n_regions: int, given: dict, n_hidden: int, n_latent: int):
    adata = fragments(40, n_regions)
    tl.peakvi(adata, max_epochs=1, device="cpu", **given)
    assert adata.obsm["X_peakvi"].shape == (40, n_latent)
    hyperparameters = get.model_info(adata)["hyperparameters"]
    assert (hyperparameters["n_hidden"], hyperparameters["n_latent"]) == (n_hidden, n_latent)
    assert adata.uns["peakvi"]["params"]["n_hidden"] == n_hidden
    assert adata.uns["peakvi"]["params"]["n_latent"] == n_latent


def test_widths_follow_the_regions_that_are_modelled():
    adata = fragments(40, 100)
    adata.var["some"] = np.arange(100) < 25
    tl.peakvi(adata, max_epochs=1, mask_var="some", device="cpu")
    assert get.model_info(adata)["hyperparameters"]["n_hidden"] == 5


@pytest.mark.parametrize("option", ["n_layers_encoder", "n_layers_decoder"])
def test_encoder_and_decoder_have_their_own_number_of_layers(option: str):
    one, three = (get.model_info(fitted(**{option: n}))["n_parameters"] for n in (1, 3))
    assert one < three


@pytest.mark.parametrize("where", ["encoder", "decoder", "both", "none"])
@pytest.mark.parametrize("norm", ["use_batch_norm", "use_layer_norm"])
def test_norms_can_be_placed(norm: str, where: str):
    adata = fitted(**{norm: where}, batch_key="batch")
    assert np.isfinite(adata.obsm["X_peakvi"]).all()
    assert get.model_info(adata)["hyperparameters"][norm] == where


@pytest.mark.parametrize("deeply", [True, False])
@pytest.mark.parametrize("encode", [True, False])
def test_covariates_may_go_wherever_they_are_wanted(encode: bool, deeply: bool):
    adata = fitted(
        batch_key="batch",
        encode_covariates=encode,
        deeply_inject_covariates=deeply,
        categorical_covariate_keys=["sex", "site"],
        continuous_covariate_keys=["mito", "age"],
        max_epochs=3,
    )
    moved = adata.copy()
    moved.obs["mito"] = moved.obs["mito"] + 1
    moved.obs["batch"] = "b0"
    seen = not np.allclose(get.latent(adata, adata_new=moved), adata.obsm["X_peakvi"])
    assert seen == encode  # the encoder sees covariates if asked to, and only then
    assert not np.allclose(get.denoised(adata, adata_new=moved), get.denoised(adata))


@pytest.mark.parametrize("cells", [True, False])
@pytest.mark.parametrize("regions", [True, False])
def test_factors_can_be_left_out(cells: bool, regions: bool):
    adata = fitted(cell_factors=cells, region_factors=regions, max_epochs=3)
    assert np.isfinite(get.elbo(adata))
    assert (get.library_size(adata) == 1).all() == (not cells)
    whole = get.denoised(adata, normalize_cells=cells, normalize_regions=regions)
    np.testing.assert_allclose(get.likelihood_parameters(adata)["probability"], whole, rtol=1e-5)


# ---- what is said of the data


def closed(n: int):
    adata = fragments()
    dense = adata.X.toarray()
    dense[:, :n] = 0
    adata.X = sp.csr_matrix(dense)
    return adata


@pytest.mark.parametrize("verb", [tl.peakvi, tl.poissonvi], ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("n", [0, 1, 19])
def test_regions_that_are_never_open_are_remarked_on_once(verb, n: int, capfd):
    adata = closed(n)
    capfd.readouterr()
    with svp.settings.override(verbosity=1):
        verb(adata, **QUICK)
    said = capfd.readouterr().err
    expected = f"{n} of 20 regions are open in no cell: they say nothing, and cost time and memory."
    assert said.count(expected) == (n > 0)
    assert ("sc.pp.filter_genes(adata, min_cells=1)" in said) == (n > 0)
    assert np.isfinite(adata.layers[f"{verb.__name__}_denoised"]).all()


def test_only_modelled_regions_are_counted(capfd):
    adata = closed(4)
    adata.var["open"] = np.arange(20) >= 4
    with svp.settings.override(verbosity=1):
        tl.peakvi(adata, **QUICK, mask_var="open")
    assert "open in no cell" not in capfd.readouterr().err


@pytest.mark.parametrize("verb", [tl.peakvi, tl.poissonvi], ids=lambda verb: verb.__name__)
def test_data_of_which_no_region_is_ever_open_are_refused(verb):
    adata = closed(20)
    adata.layers["fragments"] = adata.X
    for options, place in (({}, "X"), ({"layer": "fragments"}, r"layers\['fragments'\]")):
        before = contents(adata)
        with pytest.raises(InputError, match=f"^{place} holds no count above zero: none of the 20 regions is open"):
            verb(adata, **QUICK, **options)
        assert_same(contents(adata), before)


# ---- what cannot be

REFUSED = [
    ({"latent_distribution": "lognormal"}, "latent_distribution='lognormal' is unknown"),
    ({"use_layer_norm": True}, "use_layer_norm=True is unknown"),
    ({"cell_factors": "yes"}, "cell_factors='yes' must be True or False"),
    ({"region_factors": None}, "region_factors=None must be True or False"),
    ({"encode_covariates": 1}, "encode_covariates=1 must be True or False"),
    ({"deeply_inject_covariates": 1}, "deeply_inject_covariates=1 must be True or False"),
    ({"dropout_rate": 1.0}, "dropout_rate=1.0 must be a number of at least 0 and below 1"),
    ({"n_hidden": 0}, "n_hidden=0 must be a whole number of at least 1"),
    ({"n_latent": 2.5}, "n_latent=2.5 must be a whole number of at least 1"),
    ({"n_layers_encoder": 0}, "n_layers_encoder=0 must be a whole number of at least 1"),
    ({"n_layers_decoder": None}, "n_layers_decoder=None must be a whole number of at least 1"),
    ({"size_factor_key": 3}, "size_factor_key=3 must be the name of an obs column"),
    ({"size_factor_key": "depth", "cell_factors": False}, "cell_factors=False leaves them out: choose one of the two"),
    ({"size_factor_key": "size"}, r"obs\['size'\] is above 1 in \d+ of 60 cells .* and has to be a share"),
    ({"size_factor_key": "site"}, r"obs\['site'\] holds category, not numbers"),
    ({"batch_key": 3}, "batch_key takes the name of an obs column or a list of names, not 3"),
    ({"layer": 3}, "layer takes the name of a layer, not 3"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_impossible_option_is_refused_with_the_way_out(options: dict, message: str):
    adata = fragments()
    before = contents(adata)
    with pytest.raises(InputError, match=message):
        tl.peakvi(adata, **{**QUICK, **options})
    assert_same(contents(adata), before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(60), "is zero or negative in 60 of 60 cells"),
        (np.r_[-0.5, np.ones(59)], "is zero or negative in 1 of 60 cells"),
        (np.r_[np.nan, np.ones(59)], r"is missing \(NaN\) in 1 of 60 cells"),
        (np.r_[1.5, np.ones(59)], r"is above 1 in 1 of 60 cells \(largest 1\.5\)"),
    ],
)
def test_factors_of_cells_that_cannot_be_are_refused(values: np.ndarray, message: str):
    adata = fragments()
    adata.obs["odd"] = values
    before = contents(adata)
    with pytest.raises(InputError, match=rf"obs\['odd'\] {message}"):
        tl.peakvi(adata, **QUICK, size_factor_key="odd")
    assert_same(contents(adata), before)


def test_missing_column_is_named_with_the_near_ones():
    with pytest.raises(MissingKeyError, match="obs has no column 'dept'. Did you mean 'depth'"):
        tl.peakvi(fragments(), **QUICK, size_factor_key="dept")


def test_arguments_of_other_models_are_no_training_options():
    with pytest.raises(TypeError, match=r"tl\.peakvi got an unexpected argument 'gene_likelihood'"):
        tl.peakvi(fragments(), gene_likelihood="nb")
