"""tl.multivi: what may be set, which cells may have what, and what follows. What it keeps is in test_contract_multimodal.py.

The recovery at the end is of 600 cells, of which half are unpaired, with strong types. Measured with seed 0: the type of
cells with chromatin alone, guessed from their neighbours with RNA alone, is right in 0.68 (the most common type has about a
third); the median correlation over those cells of imputed with true shares of differential genes is 0.62.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from mudata import MuData
from sklearn.neighbors import KNeighborsClassifier

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.fitted import from_record
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError
from tests.contract import QUICK
from tests.studies import Judge, seeds

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]


@cache
def _simulated(rna_only: float, atac_only: float) -> MuData:
    return svp.datasets.simulate_multiome(
        60, 20, n_regions=40, n_proteins=4, rna_only=rna_only, atac_only=atac_only, positive_rate=0.2
    )


def cells(rna_only: float = 0.2, atac_only: float = 0.3) -> MuData:
    """With columns of every kind that a model reads."""
    mdata = copied(_simulated(rna_only, atac_only))
    mdata.obs["sex"] = ["m", "f", "f"] * 20
    mdata.obs["age"] = np.arange(60) % 7
    mdata.obs["size"] = np.linspace(0.5, 2, 60)
    for name in ("rna", "atac"):
        mdata[name].var["chosen"] = np.arange(mdata[name].n_vars) % 3 > 0
        mdata[name].layers["counts"] = mdata[name].X.copy()
    return mdata


def fitted(mdata: MuData | None = None, **options) -> MuData:
    mdata = cells() if mdata is None else mdata
    tl.multivi(mdata, **{**QUICK, "max_epochs": 2, "denoise": False, **options})
    return mdata


def stored(mdata: MuData) -> dict[str, np.ndarray]:
    return from_record(mdata.uns, "multivi").weights


def is_finite(mdata: MuData) -> bool:
    values = [get.denoised(mdata, mod=name) for name in mdata.mod if name in _modelled(mdata)]
    history = mdata.uns["multivi"]["history"]["elbo_train"]
    return all(np.isfinite(x).all() for x in (mdata.obsm["X_multivi"], history, *(v.to_numpy() for v in values)))


def _modelled(mdata: MuData) -> list[str]:
    params = mdata.uns["multivi"]["params"]
    return [params[what] for what in ("rna", "atac", "protein") if what in params]


# ---- every option

OPTIONS = [
    {"gene_likelihood": "nb"},
    {"gene_likelihood": "poisson"},
    {"dispersion": "gene-batch", "batch_key": "batch"},
    {"dispersion": "gene-cell"},
    {"protein_dispersion": "protein-batch", "batch_key": "batch"},
    {"region_factors": False},
    {"modality_weights": "universal"},
    {"modality_weights": "cell"},
    {"modality_penalty": "Jeffreys"},
    {"modality_penalty": "none"},
    {"batch_key": "batch"},
    {"batch_key": "batch", "adversarial_mixing": True},
    {"latent_distribution": "ln"},
    {"batch_key": "batch", "categorical_covariate_keys": "sex", "continuous_covariate_keys": "age"},
    {"batch_key": "batch", "categorical_covariate_keys": ["sex"], "encode_covariates": True},
    {"batch_key": "batch", "deeply_inject_covariates": True},
    {"rna_size_factor_key": "size"},
    {"atac_size_factor_key": "accessibility_depth"},
    {"n_layers_encoder": 1, "n_layers_decoder": 3},
    {"dropout_rate": 0.3},
    {"use_batch_norm": "both", "use_layer_norm": "none"},
    {"rna_mask_var": "chosen", "atac_mask_var": "chosen"},
]


@cache
def plain() -> np.ndarray:
    return fitted().obsm["X_multivi"]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(f"{k}={v}" for k, v in options.items()))
def test_every_option_is_recorded_and_its_latent_is_its_own(options: dict):
    mdata = fitted(**options)
    assert is_finite(mdata)
    params = mdata.uns["multivi"]["params"]
    for name, value in options.items():
        assert params[name] == (", ".join(value) if isinstance(value, list) else value)
    assert not np.array_equal(mdata.obsm["X_multivi"], plain())


def test_counts_are_read_from_the_layers_that_are_named():
    mdata = cells()
    for name in ("rna", "atac"):
        mdata[name].X = mdata[name].X.log1p()
    found = fitted(mdata, rna_layer="counts", atac_layer="counts")
    np.testing.assert_array_equal(found.obsm["X_multivi"], plain())


def test_mask_models_the_chosen_features_alone():
    mdata = fitted(rna_mask_var="chosen", atac_mask_var="chosen", denoise=True)
    for name, kind in (("rna", "genes"), ("atac", "regions")):
        chosen = mdata[name].var["chosen"].to_numpy()
        assert get.model_info(mdata)[kind] == list(mdata[name].var_names[chosen])
        layer = mdata[name].layers["multivi_denoised"]
        assert np.isnan(layer[:, ~chosen]).all()
        assert np.isfinite(layer[:, chosen]).all()


def test_sizes_follow_from_the_number_of_regions_or_else_of_genes():
    mdata = cells()
    tl.multivi(mdata, max_epochs=1, denoise=False, device="cpu")
    assert {name: mdata.uns["multivi"]["params"][name] for name in ("n_hidden", "n_latent")} == {
        "n_hidden": 6,
        "n_latent": 2,
    }
    alone = MuData({"rna": mdata["rna"].copy()})
    tl.multivi(alone, max_epochs=1, denoise=False, device="cpu")
    assert alone.uns["multivi"]["params"]["n_hidden"] == 4


def test_counts_of_fragments_and_their_binary_form_give_the_same():
    mdata = cells()
    mdata["atac"].X.data[:] = 1
    np.testing.assert_array_equal(fitted(mdata).obsm["X_multivi"], plain())


REFUSED = [
    ({"gene_likelihood": "normal"}, "gene_likelihood='normal' is unknown"),
    ({"dispersion": "gene-label"}, "dispersion='gene-label' is unknown"),
    ({"protein_dispersion": "gene"}, "protein_dispersion='gene' is unknown"),
    ({"modality_weights": "Equal"}, "modality_weights='Equal' is unknown.* Did you mean 'equal'"),
    ({"modality_penalty": None}, "modality_penalty=None is unknown"),
    ({"adversarial_mixing": "yes"}, "adversarial_mixing='yes' must be True or False"),
    ({"region_factors": 1}, "region_factors=1 must be True or False"),
    ({"n_layers_encoder": 0}, "n_layers_encoder=0 must be a whole number of at least 1"),
    ({"n_hidden": 2.5}, "n_hidden=2.5 must be a whole number"),
    ({"dropout_rate": 1}, "dropout_rate=1 must be a number of at least 0 and below 1"),
    ({"batch_key": 3}, "batch_key takes the name of an obs column or a list of names"),
    ({"rna_size_factor_key": 3}, "rna_size_factor_key=3 must be the name"),
    ({"rna_layer": 3}, "layer takes the name of a layer, not 3"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_impossible_option_is_refused_with_the_way_out(options: dict, message: str):
    mdata = cells()
    with pytest.raises(InputError, match=message):
        fitted(mdata, **options)
    assert "multivi" not in mdata.uns


# ---- which cells have what


@pytest.mark.parametrize(
    ("shares", "kinds"),
    [((0, 0), 1), ((0.4, 0), 2), ((0, 0.4), 2), ((0.3, 0.3), 3), ((0.5, 0.5), 2)],
    ids=["paired", "RNA alone", "chromatin alone", "mixed", "no paired cell"],
)
@pytest.mark.parametrize("protein", [None, False], ids=["with protein", "without"])
def test_cells_may_have_any_of_the_modalities(shares: tuple, kinds: int, protein):
    mdata = fitted(cells(*shares), protein=protein, batch_key="batch")
    assert is_finite(mdata)
    mixing = [name for name in mdata.uns["multivi"]["params"] if name.startswith("mixing of cells with ")]
    assert len(mixing) == (kinds if kinds > 1 else 0)


@pytest.mark.parametrize("names", [("rna",), ("atac",), ("rna", "protein"), ("atac", "protein")], ids=" and ".join)
def test_modalities_may_be_missing_from_the_object(names: tuple):
    whole = cells(0, 0)
    mdata = fitted(MuData({name: whole[name].copy() for name in names}))
    assert _modelled(mdata) == list(names)
    assert is_finite(mdata)


def test_left_out_modalities_are_as_good_as_not_there():
    whole = cells(0, 0)
    left_out = fitted(whole, protein=False)
    bare = fitted(MuData({name: whole[name].copy() for name in ("rna", "atac")}))
    np.testing.assert_array_equal(left_out.obsm["X_multivi"], bare.obsm["X_multivi"])
    assert "multivi_denoised" not in left_out["protein"].layers


def test_order_and_names_of_modalities_do_not_matter():
    whole = cells(0, 0)
    one = fitted(MuData({name: whole[name].copy() for name in ("rna", "atac", "protein")}))
    names = {"x": "protein", "y": "atac", "z": "rna"}
    other = MuData({name: whole[what].copy() for name, what in names.items()})
    fitted(other)  # told by var["feature_types"]
    assert list(other.mod) == ["x", "y", "z"]
    np.testing.assert_array_equal(other.obsm["X_multivi"], one.obsm["X_multivi"])


def test_a_measured_cell_without_counts_is_present():
    """It pulls the joint position; a cell that was not measured does not."""
    mdata = cells(0, 0)
    empty = mdata["rna"].X.toarray()
    empty[:5] = 0
    mdata["rna"].X = empty
    fitted(mdata, protein=False)
    mean, variance = get.latent(mdata, mod="rna", kind="distribution")
    assert (variance[:5] != 1).all()
    joint = get.latent(mdata)[:5]
    np.testing.assert_allclose(joint, (mean[:5] + get.latent(mdata, mod="atac")[:5]) / 2, atol=1e-5)


def test_cells_without_any_count_are_remarked_on(capfd):
    mdata = cells(0, 0)
    for name in mdata.mod:
        dense = mdata[name].X.toarray()
        dense[:3] = 0
        mdata[name].X = dense
    with svp.settings.override(verbosity=1):
        fitted(mdata)
    assert "3 of 60 cells have no counts in any modality" in capfd.readouterr().err


def test_columns_of_modalities_will_do():
    mdata, bare = cells(), cells()
    del bare.obs["batch"]
    one, other = fitted(mdata, batch_key="batch"), fitted(bare, batch_key="batch")
    np.testing.assert_array_equal(one.obsm["X_multivi"], other.obsm["X_multivi"])


# ---- parts of the model


def test_there_is_an_adversary_only_where_it_is_wanted_and_there_are_batches():
    for options, expected in (
        ({"batch_key": "batch", "adversarial_mixing": True}, True),
        ({"adversarial_mixing": True}, False),
        ({"batch_key": "batch"}, False),
    ):
        assert any(name.startswith("adversary.") for name in stored(fitted(**options))) == expected


def test_weights_of_modalities_are_learned_if_asked_for():
    learned = {how: stored(fitted(modality_weights=how)) for how in ("equal", "universal", "cell")}
    of = {how: {name: w for name, w in found.items() if name.startswith("weights.")} for how, found in learned.items()}
    assert not of["equal"]
    assert {name: w.shape for name, w in of["universal"].items()} == {"weights.shared": (3,)}
    assert {name: w.shape for name, w in of["cell"].items()} == {"weights.shared": (3,), "weights.own": (60, 3)}
    assert all(w.any() for how in ("universal", "cell") for w in of[how].values())


def test_an_island_is_remarked_on(capfd, monkeypatch):
    monkeypatch.setattr("scvi_pp.tl._fitting_multimodal.mixing_score", lambda *_, **__: {2: 0.05, 5: 0.9})
    with svp.settings.override(verbosity=1):
        mdata = fitted()
    said = capfd.readouterr().err
    assert "Cells with atac lie by themselves in the latent space (mixing score 0.05" in said
    assert "rna and protein" not in said
    params = mdata.uns["multivi"]["params"]
    assert params["mixing of cells with atac"] == 0.05
    assert params["mixing of cells with rna and protein"] == 0.9


# ---- recovery: in the mean over studies, see tests/studies.py

SEEDS = seeds(2)


@cache
def study(seed: int) -> tuple[MuData, MuData]:
    """A fit to cells of which half are unpaired, and the same cells whole, with the truth."""
    strong = {"region_effect_size": 3.0, "effect_size": 1.2, "differential": 0.6, "type_separation": 5.0}
    options = {**strong, "positive_rate": 0.2, "library_size": 600.0, "rng": seed}
    whole = svp.datasets.simulate_multiome(600, 100, n_regions=300, true_rate=True, **options)
    mdata = svp.datasets.simulate_multiome(600, 100, n_regions=300, rna_only=0.25, atac_only=0.25, **options)
    how = {"max_epochs": 40, "early_stopping": False, "device": "cpu", "n_hidden": 48, "n_latent": 8}
    with svp.settings.override(verbosity=0):
        tl.multivi(mdata, batch_key="batch", denoise=False, rng=seed, **how)
    return mdata, whole


@pytest.mark.slow
def test_cells_of_a_type_lie_together_whatever_was_measured(judge: Judge):
    """Types of cells with chromatin alone, by their neighbours among cells with RNA, beyond the most common type."""
    beyond = []
    for mdata, _ in map(study, SEEDS):
        kind, types, latent = mdata.obs["modality"], mdata.obs["cell_type"].astype(str), mdata.obsm["X_multivi"]
        of_rna, of_atac = (kind == "expression").to_numpy(), (kind == "accessibility").to_numpy()
        guess = KNeighborsClassifier(10).fit(latent[of_rna], types[of_rna]).predict(latent[of_atac])
        most_common = types[of_atac].value_counts(normalize=True).iloc[0]
        beyond.append((guess == types[of_atac]).mean() - most_common)
    judge("multivi: types of cells with chromatin alone, beyond the most common", beyond, above=0.1)


@pytest.mark.slow
def test_expression_of_cells_with_chromatin_alone_is_filled_in(judge: Judge):
    medians, positive = [], []
    for mdata, whole in map(study, SEEDS):
        unmeasured = (mdata.obs["modality"] == "accessibility").to_numpy()
        rate = whole["rna"][mdata.obs_names].layers["true_rate"][unmeasured]
        share = rate / rate.sum(1, keepdims=True)
        imputed = get.denoised(mdata, mod="rna").to_numpy()[unmeasured]
        differential = np.flatnonzero(whole["rna"].var["differential"])
        correlation = np.array([np.corrcoef(share[:, g], imputed[:, g])[0, 1] for g in differential])
        medians.append(np.median(correlation))
        positive.append((correlation > 0).mean())
    judge("multivi: correlation of imputed expression", medians, above=0.3)
    judge("multivi: share of genes imputed in the right direction", positive, above=0.85)


def test_a_size_factor_is_asked_of_the_cells_that_have_the_modality():
    mdata = cells()
    del mdata.obs["size"]
    mdata["rna"].obs["depth"] = np.linspace(0.5, 2, mdata["rna"].n_obs)
    fitted(mdata, rna_size_factor_key="depth")
    found = get.library_size(mdata, mod="rna").loc[mdata["rna"].obs_names]
    np.testing.assert_allclose(found, mdata["rna"].obs["depth"], rtol=1e-5)
    mdata["rna"].obs["depth"] = np.where(np.arange(mdata["rna"].n_obs) == 3, np.nan, 1.0)
    with pytest.raises(InputError, match=r"obs\['depth'\] is missing \(NaN\) in 1 of 60 cells"):
        fitted(mdata, rna_size_factor_key="depth")
