"""What verbs of several modalities promise as every model verb does: what they write, draw, leave and refuse."""

from __future__ import annotations

import random

import mudata
import numpy as np
import pytest
import torch
from mudata import MuData

import scvi_pp as svp
from scvi_pp import settings
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import assert_same
from tests.contract_multimodal import VERBS, Verb, assert_only_added, contents

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:Cannot join columns with the same name:UserWarning"),
    pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning"),
    pytest.mark.filterwarnings("ignore:Duplicated var_names:UserWarning"),
]

TRAINING = "scvi_pp._backend.fit._Loop._train"
every_verb = pytest.mark.parametrize("verb", VERBS, ids=str)


# ---- what is written


@every_verb
def test_call_returns_nothing_and_adds_the_documented_entries_only(verb: Verb):
    mdata = verb.cells()
    before = contents(mdata)
    assert verb(mdata, batch_key="batch") is None
    assert_only_added(before, mdata, verb.written())


@pytest.mark.every_form
@every_verb
def test_results_have_the_documented_types_and_shapes(verb: Verb):
    mdata = verb.cells()
    verb(mdata)
    found = mdata.obsm[f"X_{verb.name}"]
    assert (type(found), found.dtype, found.shape) == (np.ndarray, np.float32, (60, 2))
    assert np.isfinite(found).all()
    for name in verb.modalities:
        layer = mdata[name].layers[f"{verb.name}_denoised"]
        assert (type(layer), layer.dtype, layer.shape) == (np.ndarray, np.float32, mdata[name].shape)
        assert (layer >= 0).all()
    np.testing.assert_allclose(mdata["rna"].layers[f"{verb.name}_denoised"].sum(1), 1, rtol=1e-4)
    if verb.other == "atac":
        assert (mdata["atac"].layers[f"{verb.name}_denoised"] <= 1).all()
    record = mdata.uns[verb.name]
    assert list(record) == ["params", "history", "model"]
    assert {type(value) for value in record["params"].values()} <= {bool, int, float, str}
    assert all(curve.dtype == np.float32 and curve.shape == (1,) for curve in record["history"].values())
    assert not record["model"]["blob"].flags.writeable


@every_verb
def test_copy_has_the_results_and_the_object_has_not(verb: Verb):
    mdata = verb.cells()
    before = contents(mdata)
    done = verb(mdata, copy=True)
    assert_same(contents(mdata), before)
    assert_only_added(before, done, verb.written())
    verb(mdata)
    assert_same(done.obsm[f"X_{verb.name}"], mdata.obsm[f"X_{verb.name}"])


@every_verb
def test_key_added_replaces_every_name_and_two_fits_live_side_by_side(verb: Verb):
    mdata = verb.cells()
    verb(mdata)
    before = contents(mdata)
    verb(mdata, key_added="mine", rng=1)
    assert_only_added(before, mdata, verb.written("mine"))
    np.testing.assert_array_equal(svp.get.latent(mdata, key="mine"), mdata.obsm["mine"])
    np.testing.assert_array_equal(svp.get.latent(mdata, key=verb.name), mdata.obsm[f"X_{verb.name}"])
    with pytest.raises(InputError, match="uns holds 2 fitted models"):
        svp.get.latent(mdata)


@every_verb
def test_denoised_layers_are_written_if_wanted_or_small(verb: Verb, capfd):
    mdata = verb.cells()
    before = contents(mdata)
    verb(mdata, denoise=False)
    assert_only_added(before, mdata, verb.written(layers=()))
    *small, large = sorted(verb.modalities, key=lambda name: mdata[name].n_obs * mdata[name].n_vars)
    fits = max(4 * mdata[name].n_obs * mdata[name].n_vars for name in small)
    with settings.override(max_layer_bytes=fits, verbosity=2):
        capfd.readouterr()
        verb(mdata)
        said = capfd.readouterr().err
        assert_only_added(before, mdata, verb.written(layers=small))
        assert f"layer of mdata['{large}'] would take" in said
        assert (
            f"tl.denoise(mdata, key='{verb.name}', mod='{large}'{verb.in_own_layer if large != 'rna' else ''})" in said
        )
        verb(mdata, denoise=True)
        assert_only_added(before, mdata, verb.written())
    with settings.override(max_layer_bytes=1, verbosity=2):
        verb(mdata)
    assert f"tl.denoise(mdata, key='{verb.name}', mod='rna')," in capfd.readouterr().err


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@every_verb
def test_model_survives_when_its_denoised_layers_cannot_be_made(verb: Verb, error: type, monkeypatch):
    def fail(*_args, **_kwargs) -> None:
        raise error

    mdata = verb.cells()
    before = contents(mdata)
    with monkeypatch.context() as patch:
        patch.setattr("scvi_pp._backend.query.Posterior.denoised", fail)
        verb(mdata)
    assert_only_added(before, mdata, verb.written(layers=()))
    svp.tl.denoise(mdata, mod=verb.other)
    assert np.isfinite(mdata[verb.other].layers[f"{verb.name}_denoised"]).all()


@every_verb
def test_model_goes_into_the_object_a_file_or_nowhere(verb: Verb, tmp_path):
    mdata = verb.cells()
    verb(mdata, save_model=False)
    assert list(mdata.uns[verb.name]) == ["params", "history"]
    verb(mdata, save_model=tmp_path / "model")
    assert (tmp_path / "model").is_file()
    assert "blob" not in mdata.uns[verb.name]["model"]
    np.testing.assert_array_equal(svp.get.latent(mdata), mdata.obsm[f"X_{verb.name}"])


@pytest.mark.every_form
@every_verb
def test_refit_replaces_the_results_by_the_same(verb: Verb):
    mdata = verb.cells()
    verb(mdata)
    first = contents(mdata)
    verb(mdata)
    again = contents(mdata)
    timed = f"uns[{verb.name}]"  # holds how long it took
    assert_same({k: v for k, v in again.items() if k != timed}, {k: v for k, v in first.items() if k != timed})
    assert_same(again[timed]["history"], first[timed]["history"])


@every_verb
def test_file_gives_the_same_answers(verb: Verb, tmp_path):
    mdata = verb.cells()
    verb(mdata, batch_key="batch", **({"modality_weights": "cell"} if verb.name == "multivi" else {}))
    mdata.write_h5mu(tmp_path / "study.h5mu")
    back = mudata.read_h5mu(tmp_path / "study.h5mu")
    for other in (back, mdata.copy()):
        np.testing.assert_array_equal(svp.get.latent(other), mdata.obsm[f"X_{verb.name}"])
        for name in verb.modalities:
            np.testing.assert_array_equal(
                other[name].layers[f"{verb.name}_denoised"], mdata[name].layers[f"{verb.name}_denoised"]
            )
            one, two = (svp.get.denoised(data, mod=name) for data in (other, mdata))
            np.testing.assert_array_equal(one, two)
    assert back.uns[verb.name]["params"] == mdata.uns[verb.name]["params"]


# ---- randomness


@pytest.mark.every_form
@every_verb
def test_same_seed_gives_same_bits_and_another_gives_others(verb: Verb):
    mdata = verb.cells()
    default = verb.latent(mdata, batch_key="batch")
    for seeds in ({"rng": 0}, {"random_state": 0}):
        assert_same(verb.latent(mdata, batch_key="batch", **seeds), default)
    with settings.override(seed=7):
        other = verb.latent(mdata, batch_key="batch")
    assert_same(verb.latent(mdata, batch_key="batch", rng=7), other)
    assert not np.allclose(other, default)


@every_verb
def test_global_random_states_are_neither_read_nor_moved(verb: Verb):
    mdata = verb.cells()
    expected = verb.latent(mdata, batch_key="batch")
    torch.manual_seed(12)
    np.random.seed(12)  # noqa: NPY002 - the global state is the point
    random.seed(12)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    verb(mdata, batch_key="batch")  # not a copy: mudata draws a name from `random` for one
    assert_same(mdata.obsm[f"X_{verb.name}"], expected)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


# ---- failures

STAGES = {
    "reading": "scvi_pp.tl._fitting_multimodal.read",
    "training": TRAINING,
    "asking for the latent": "scvi_pp._backend.query.Posterior.latent_mean",
    "denoising": "scvi_pp._backend.query.Posterior.denoised",
    "mixing": "scvi_pp.tl._fitting_multimodal.mixing_score",
    "packing the model": "scvi_pp._data.fitted.pack",
    "writing": "scvi_pp._data.write._check",
    "writing a layer": "anndata._core.aligned_mapping.AlignedActual.__setitem__",
}


@pytest.mark.parametrize("fitted_before", [False, True], ids=["fresh", "fitted before"])
@pytest.mark.parametrize("stage", STAGES)
@every_verb
def test_failure_leaves_the_object_as_it_was(verb: Verb, stage: str, fitted_before: bool, monkeypatch):
    mdata = verb.cells()
    if fitted_before:
        verb(mdata, rng=1)
    before = contents(mdata)

    def fail(*_args, **_kwargs) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(STAGES[stage], fail)
        with pytest.raises(RuntimeError, match="injected"):
            verb(mdata)
    assert_same(contents(mdata), before)


def _not_counts(mdata: MuData) -> MuData:
    mdata["rna"].X = mdata["rna"].X * 0.5
    return mdata


def _no_counts(mdata: MuData) -> MuData:
    mdata["protein"].X = mdata["protein"].X * 0
    return mdata


def _shared_names(mdata: MuData) -> MuData:
    names = list(mdata["protein"].var_names)
    mdata["protein"].var_names = ["gene1", *names[1:]]
    return mdata


def _batch_in_rna_alone(mdata: MuData) -> MuData:
    del mdata.obs["batch"]
    for name in set(mdata.mod) - {"rna"}:
        del mdata[name].obs["batch"]
    return mdata


def _batch_with_nan(mdata: MuData) -> MuData:
    mdata.obs["batch"] = mdata.obs["batch"].astype(object)
    mdata.obs.loc[mdata.obs_names[:4], "batch"] = np.nan
    return mdata


def _two_that_may_be_meant(mdata: MuData) -> MuData:
    mdata.mod["gex"] = mdata["rna"].copy()
    return mdata


def _no_cells_of_one(mdata: MuData) -> MuData:
    return MuData({"rna": mdata["rna"].copy(), "protein": mdata["protein"][:0].copy()})


def _without_proteins(mdata: MuData) -> MuData:
    return MuData({"rna": mdata["rna"].copy()})


def _negative_size(mdata: MuData) -> MuData:
    mdata.obs["size"] = -1.0
    return mdata


REFUSED = {
    "no counts of them": (
        _not_counts,
        {},
        r"mdata\['rna'\]: X holds values that are not whole .* pass rna_layer='counts'",
    ),
    "nothing but zeros": (_no_counts, {}, r"mdata\['protein'\]\.X holds no count above zero\. Leave the modality out"),
    "unknown modality": (lambda m: m, {"rna": "rnaa"}, r"rna='rnaa' is no modality of mdata\. Modalities: 'rna', "),
    "batch in one modality": (_batch_in_rna_alone, {"batch_key": "batch"}, r"missing \(NaN\) in \d+ of 60 cells"),
    "batch with NaN": (_batch_with_nan, {"batch_key": "batch"}, r"obs\['batch'\] is missing \(NaN\) in 4 of 60 cells"),
    "two RNAs": (_two_that_may_be_meant, {}, r"'rna', 'gex' may all be rna\. Name the one that is meant: rna='rna'"),
    "one cell": (lambda m: m[:1].copy(), {}, "needs at least 2"),
    "no cells of it": (_no_cells_of_one, {}, r"mdata\['protein'\] has no cells\. Leave the modality out"),
    "view": (lambda m: m[:40], {}, r"mdata is a view of another object .* mdata = mdata\.copy\(\)"),
    "key": (lambda m: m, {"key_added": "a/b"}, "key_added='a/b' cannot be a key"),
    "denoise": (lambda m: m, {"denoise": "yes"}, "denoise='yes' must be True, False or None"),
    "device": (lambda m: m, {"device": "abacus"}, "device='abacus' cannot be used here"),
    "save_model": (lambda m: m, {"save_model": 3}, "save_model takes True, False or a path"),
    "seeds": (lambda m: m, {"rng": 1, "random_state": 1}, "rng"),
}
# genes and proteins may have one name, since they are asked about apart
REFUSED_BY_MULTIVI = {
    "shared names": (_shared_names, {}, r"1 features of mdata\['protein'\] have the name of one in mdata\['rna'\]"),
    "cells in none": (lambda m: m, {"atac": False, "protein": False}, "18 cells are in none of the modalities rna: "),
    "size factor": (
        lambda m: m,
        {"atac_size_factor_key": "library_size"},
        r"obs\['library_size'\] is above 1 in \d+ of 60 cells",
    ),
}
REFUSED_BY_TOTALVI = {
    "no proteins": (_without_proteins, {}, r"none is known as proteins\. Name it: protein=.*tl\.scvi"),
    "proteins of obsm": (lambda m: m, {"protein_obsm": "adt"}, "protein_obsm is for an AnnData.*protein=\\.\\.\\."),
    "negative size": (
        _negative_size,
        {"rna_size_factor_key": "size"},
        r"obs\['size'\] is zero or negative in 60 of 60",
    ),
}
OWN = {"multivi": REFUSED_BY_MULTIVI, "totalvi": REFUSED_BY_TOTALVI}


@pytest.mark.parametrize(
    ("verb", "why"), [(verb, why) for verb in VERBS for why in (*REFUSED, *OWN[verb.name])], ids=str
)
def test_what_cannot_be_is_refused_and_nothing_changes(verb: Verb, why: str, monkeypatch):
    monkeypatch.setattr(TRAINING, lambda *_: pytest.fail("trained"))
    make, options, message = (REFUSED | OWN[verb.name])[why]
    mdata = make(verb.cells())
    was_view, before = mdata.is_view, contents(copied(mdata))
    with pytest.raises(InputError, match=message):
        verb(mdata, **options)
    assert mdata.is_view == was_view
    assert_same(contents(copied(mdata)), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_key": "bacth"}, "no column 'bacth'. Did you mean 'batch'"),
        ({"rna_layer": "count"}, r"mdata\['rna'\]: .* no layer 'count'. Did you mean 'counts'"),
        ({"rna_mask_var": "chosen"}, r"mdata\['rna'\]: var has no column 'chosen'"),
    ],
    ids=["batch", "layer", "mask"],
)
@every_verb
def test_what_is_not_there_is_named_with_the_near_one(verb: Verb, options: dict, message: str):
    mdata = verb.cells()
    before = contents(mdata)
    with pytest.raises(MissingKeyError, match=message):
        verb(mdata, **options)
    assert_same(contents(mdata), before)


@every_verb
def test_a_view_can_be_copied(verb: Verb):
    view = verb.cells()[:40]
    done = verb(view, copy=True)
    assert view.is_view
    assert (done.is_view, done.n_obs, done.obsm[f"X_{verb.name}"].shape) == (False, 40, (40, 2))


@every_verb
def test_an_anndata_of_nobody_knows_what_is_refused_with_the_way_to_a_mudata(verb: Verb):
    adata = verb.cells()["rna"].copy()
    del adata.var["feature_types"]
    with pytest.raises(MissingKeyError, match=r"no column 'feature_types'.*pp\.organize_multiome"):
        verb(adata)
    with pytest.raises(InputError, match=r"takes an AnnData or a MuData, not str\. .*mudata\.read_h5mu"):
        verb("study.h5mu")


@every_verb
def test_a_training_option_that_is_unknown_is_a_type_error(verb: Verb):
    with pytest.raises(TypeError, match=rf"tl\.{verb.name} got an unexpected argument 'batch_sise'.*'batch_size'"):
        verb(verb.cells(), batch_sise=1)


@every_verb
def test_nothing_is_said_at_verbosity_0_and_all_that_was_written_at_2(verb: Verb, capfd):
    mdata = verb.cells()
    capfd.readouterr()
    verb(mdata)
    assert capfd.readouterr() == ("", "")
    with settings.override(verbosity=2):
        verb(mdata)
    err = capfd.readouterr().err
    assert f"{verb.name}: 1 epochs on cpu" in err
    layer = f"mdata['{verb.other}'].layers['{verb.name}_denoised']"
    for place in (f"obsm['X_{verb.name}']", layer, f"uns['{verb.name}']"):
        assert place in err
