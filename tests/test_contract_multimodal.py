"""What tl.multivi, which takes a MuData, promises as every model verb does: what it writes, draws, leaves and refuses."""

from __future__ import annotations

import copy
import random
from functools import cache
from typing import Any

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mudata import MuData

import scvi_pp as svp
from scvi_pp import settings
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_same

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:Cannot join columns with the same name:UserWarning"),
    pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning"),
    pytest.mark.filterwarnings("ignore:Duplicated var_names:UserWarning"),
]

MODALITIES = ("rna", "atac", "protein")
TRAINING = "scvi_pp._backend.fit._Loop._train"


@cache
def _simulated() -> MuData:
    return svp.datasets.simulate_multiome(60, 20, n_regions=40, n_proteins=4, rna_only=0.2, atac_only=0.3)


def cells() -> MuData:
    """Paired and unpaired cells of two batches, in an object that holds a bit of everything."""
    mdata = copied(_simulated())
    rng = np.random.default_rng(0)
    mdata.uns["study"] = {"year": 2023}
    mdata.obsp["distances"] = sp.eye(mdata.n_obs, format="csr")
    for held in mdata.mod.values():
        held.layers["counts"] = held.X.copy()
        held.layers["lognorm"] = held.X.log1p()
        held.uns["neighbors"] = {"params": {"n_neighbors": 15}}
        held.obsm["X_pca"] = rng.normal(size=(held.n_obs, 2))
    return mdata


def contents(mdata: MuData) -> dict[str, Any]:
    """Everything the object and its modalities hold, copied, by the name of its place."""
    found: dict[str, Any] = {"mod": {"names": list(mdata.mod)}}
    for where, data in (("", mdata), *((f"{name}: ", held) for name, held in mdata.mod.items())):
        found |= {f"{where}obs": data.obs, f"{where}var": data.var}
        if data is not mdata:
            found[f"{where}X"] = data.X
            found |= {f"{where}layers[{key}]": value for key, value in data.layers.items() if key is not None}
        for place in ("obsm", "varm", "obsp", "varp", "uns"):
            found |= {f"{where}{place}[{key}]": value for key, value in getattr(data, place).items()}
    found |= {f"obsmap[{name}]": np.asarray(mdata.obsmap[name]) for name in mdata.obsmap}
    return {name: copy.deepcopy(value) for name, value in found.items()}


def written(key_added: str | None = None, layers=MODALITIES) -> set[str]:
    stem = key_added or "multivi"
    places = {f"obsm[{key_added or 'X_multivi'}]", f"uns[{stem}]"}
    return places | {f"{name}: layers[{stem}_denoised]" for name in layers}


def assert_only_added(before: dict[str, Any], mdata: MuData, added: set[str]) -> None:
    after = contents(mdata)
    assert set(after) == set(before) | added
    kept = [name for name in after if name not in added]
    assert_same({name: before[name] for name in kept}, {name: after[name] for name in kept})


def multivi(mdata: MuData, **options: Any) -> MuData | None:
    return svp.tl.multivi(mdata, **{**QUICK, **options})


def latent(mdata: MuData, **options: Any) -> np.ndarray:
    return multivi(mdata, denoise=False, copy=True, **options).obsm["X_multivi"]


# ---- what is written


def test_call_returns_nothing_and_adds_the_documented_entries_only():
    mdata = cells()
    before = contents(mdata)
    assert multivi(mdata, batch_key="batch") is None
    assert_only_added(before, mdata, written())


def test_results_have_the_documented_types_and_shapes():
    mdata = cells()
    multivi(mdata)
    found = mdata.obsm["X_multivi"]
    assert (type(found), found.dtype, found.shape) == (np.ndarray, np.float32, (60, 2))
    assert np.isfinite(found).all()
    for name in MODALITIES:
        layer = mdata[name].layers["multivi_denoised"]
        assert (type(layer), layer.dtype, layer.shape) == (np.ndarray, np.float32, mdata[name].shape)
        assert (layer >= 0).all()
    np.testing.assert_allclose(mdata["rna"].layers["multivi_denoised"].sum(1), 1, rtol=1e-4)
    assert (mdata["atac"].layers["multivi_denoised"] <= 1).all()
    record = mdata.uns["multivi"]
    assert list(record) == ["params", "history", "model"]
    assert {type(value) for value in record["params"].values()} <= {bool, int, float, str}
    assert all(curve.dtype == np.float32 and curve.shape == (1,) for curve in record["history"].values())
    assert not record["model"]["blob"].flags.writeable


def test_copy_has_the_results_and_the_object_has_not():
    mdata = cells()
    before = contents(mdata)
    done = multivi(mdata, copy=True)
    assert_same(contents(mdata), before)
    assert_only_added(before, done, written())
    multivi(mdata)
    assert_same(done.obsm["X_multivi"], mdata.obsm["X_multivi"])


def test_key_added_replaces_every_name_and_two_fits_live_side_by_side():
    mdata = cells()
    multivi(mdata)
    before = contents(mdata)
    multivi(mdata, key_added="mine", rng=1)
    assert_only_added(before, mdata, written("mine"))
    np.testing.assert_array_equal(svp.get.latent(mdata, key="mine"), mdata.obsm["mine"])
    np.testing.assert_array_equal(svp.get.latent(mdata, key="multivi"), mdata.obsm["X_multivi"])
    with pytest.raises(InputError, match="uns holds 2 fitted models"):
        svp.get.latent(mdata)


def test_denoised_layers_are_written_if_wanted_or_small(capfd):
    mdata = cells()
    before = contents(mdata)
    multivi(mdata, denoise=False)
    assert_only_added(before, mdata, written(layers=()))
    fits = 4 * mdata["rna"].n_obs * mdata["rna"].n_vars
    with settings.override(max_layer_bytes=fits, verbosity=2):
        capfd.readouterr()
        multivi(mdata)
        said = capfd.readouterr().err
        assert_only_added(before, mdata, written(layers=("rna", "protein")))
        assert "layer of mdata['atac'] would take" in said
        assert "tl.denoise(mdata, key='multivi', mod='atac', threshold=0.1)" in said
        multivi(mdata, denoise=True)
        assert_only_added(before, mdata, written())
    with settings.override(max_layer_bytes=1, verbosity=2):
        multivi(mdata)
    assert "tl.denoise(mdata, key='multivi', mod='rna')," in capfd.readouterr().err


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_model_survives_when_its_denoised_layers_cannot_be_made(error: type, monkeypatch):
    def fail(*_args, **_kwargs) -> None:
        raise error

    mdata = cells()
    before = contents(mdata)
    with monkeypatch.context() as patch:
        patch.setattr("scvi_pp._backend.query.Posterior.denoised", fail)
        multivi(mdata)
    assert_only_added(before, mdata, written(layers=()))
    svp.tl.denoise(mdata, mod="atac")
    assert np.isfinite(mdata["atac"].layers["multivi_denoised"]).all()


def test_model_goes_into_the_object_a_file_or_nowhere(tmp_path):
    mdata = cells()
    multivi(mdata, save_model=False)
    assert list(mdata.uns["multivi"]) == ["params", "history"]
    multivi(mdata, save_model=tmp_path / "model")
    assert (tmp_path / "model").is_file()
    assert "blob" not in mdata.uns["multivi"]["model"]
    np.testing.assert_array_equal(svp.get.latent(mdata), mdata.obsm["X_multivi"])


def test_refit_replaces_the_results_by_the_same():
    mdata = cells()
    multivi(mdata)
    first = contents(mdata)
    multivi(mdata)
    again = contents(mdata)
    timed = "uns[multivi]"  # holds how long it took
    assert_same({k: v for k, v in again.items() if k != timed}, {k: v for k, v in first.items() if k != timed})
    assert_same(again[timed]["history"], first[timed]["history"])


def test_file_gives_the_same_answers(tmp_path):
    mdata = cells()
    multivi(mdata, batch_key="batch", modality_weights="cell")
    mdata.write_h5mu(tmp_path / "study.h5mu")
    back = mudata.read_h5mu(tmp_path / "study.h5mu")
    for other in (back, mdata.copy()):
        np.testing.assert_array_equal(svp.get.latent(other), mdata.obsm["X_multivi"])
        for name in MODALITIES:
            np.testing.assert_array_equal(
                other[name].layers["multivi_denoised"], mdata[name].layers["multivi_denoised"]
            )
            one, two = (svp.get.denoised(data, mod=name) for data in (other, mdata))
            np.testing.assert_array_equal(one, two)
    assert back.uns["multivi"]["params"] == mdata.uns["multivi"]["params"]


# ---- randomness


def test_same_seed_gives_same_bits_and_another_gives_others():
    mdata = cells()
    default = latent(mdata, batch_key="batch")
    for seeds in ({"rng": 0}, {"random_state": 0}):
        assert_same(latent(mdata, batch_key="batch", **seeds), default)
    with settings.override(seed=7):
        other = latent(mdata, batch_key="batch")
    assert_same(latent(mdata, batch_key="batch", rng=7), other)
    assert not np.allclose(other, default)


def test_global_random_states_are_neither_read_nor_moved():
    mdata = cells()
    expected = latent(mdata, batch_key="batch")
    torch.manual_seed(12)
    np.random.seed(12)  # noqa: NPY002 - the global state is the point
    random.seed(12)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    multivi(mdata, batch_key="batch")  # not a copy: mudata draws a name from `random` for one
    assert_same(mdata.obsm["X_multivi"], expected)
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
def test_failure_leaves_the_object_as_it_was(stage: str, fitted_before: bool, monkeypatch):
    mdata = cells()
    if fitted_before:
        multivi(mdata, rng=1)
    before = contents(mdata)

    def fail(*_args, **_kwargs) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(STAGES[stage], fail)
        with pytest.raises(RuntimeError, match="injected"):
            multivi(mdata)
    assert_same(contents(mdata), before)


def _not_counts(mdata: MuData) -> MuData:
    mdata["atac"].X = mdata["atac"].X * 0.5
    return mdata


def _no_counts(mdata: MuData) -> MuData:
    mdata["atac"].X = mdata["atac"].X * 0
    return mdata


def _shared_names(mdata: MuData) -> MuData:
    names = list(mdata["protein"].var_names)
    mdata["protein"].var_names = ["gene1", *names[1:]]
    return mdata


def _batch_in_rna_alone(mdata: MuData) -> MuData:
    del mdata.obs["batch"], mdata["atac"].obs["batch"], mdata["protein"].obs["batch"]
    return mdata


def _batch_with_nan(mdata: MuData) -> MuData:
    mdata.obs["batch"] = mdata.obs["batch"].astype(object)
    mdata.obs.loc[mdata.obs_names[:4], "batch"] = np.nan
    return mdata


def _two_that_may_be_meant(mdata: MuData) -> MuData:
    mdata.mod["gex"] = mdata["rna"].copy()
    return mdata


def _no_atac_cells(mdata: MuData) -> MuData:
    return MuData({"rna": mdata["rna"].copy(), "atac": mdata["atac"][:0].copy()})


REFUSED = {
    "no counts of them": (
        _not_counts,
        {},
        r"mdata\['atac'\]: X holds values that are not whole .* pass atac_layer='counts'",
    ),
    "nothing but zeros": (_no_counts, {}, r"mdata\['atac'\]\.X holds no count above zero\. Leave the modality out"),
    "unknown modality": (lambda m: m, {"rna": "rnaa"}, r"rna='rnaa' is no modality of mdata\. Modalities: 'rna', "),
    "shared names": (_shared_names, {}, r"1 features of mdata\['protein'\] have the name of one in mdata\['rna'\]"),
    "batch in one modality": (_batch_in_rna_alone, {"batch_key": "batch"}, r"missing \(NaN\) in 18 of 60 cells"),
    "batch with NaN": (_batch_with_nan, {"batch_key": "batch"}, r"obs\['batch'\] is missing \(NaN\) in 4 of 60 cells"),
    "two RNAs": (_two_that_may_be_meant, {}, r"'rna', 'gex' may all be rna\. Name the one that is meant: rna='rna'"),
    "cells in none": (lambda m: m, {"atac": False, "protein": False}, "18 cells are in none of the modalities rna: "),
    "one cell": (lambda m: m[:1].copy(), {}, "needs at least 2"),
    "no cells of it": (_no_atac_cells, {}, r"mdata\['atac'\] has no cells\. Leave the modality out"),
    "view": (lambda m: m[:40], {}, r"mdata is a view of another object .* mdata = mdata\.copy\(\)"),
    "key": (lambda m: m, {"key_added": "a/b"}, "key_added='a/b' cannot be a key"),
    "denoise": (lambda m: m, {"denoise": "yes"}, "denoise='yes' must be True, False or None"),
    "device": (lambda m: m, {"device": "abacus"}, "device='abacus' cannot be used here"),
    "save_model": (lambda m: m, {"save_model": 3}, "save_model takes True, False or a path"),
    "seeds": (lambda m: m, {"rng": 1, "random_state": 1}, "rng"),
    "size factor": (
        lambda m: m,
        {"atac_size_factor_key": "library_size"},
        r"obs\['library_size'\] is above 1 in \d+ of 60 cells",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_changes(why: str, monkeypatch):
    monkeypatch.setattr(TRAINING, lambda *_: pytest.fail("trained"))
    make, options, message = REFUSED[why]
    mdata = make(cells())
    was_view, before = mdata.is_view, contents(copied(mdata))
    with pytest.raises(InputError, match=message):
        multivi(mdata, **options)
    assert mdata.is_view == was_view
    assert_same(contents(copied(mdata)), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_key": "bacth"}, "no column 'bacth'. Did you mean 'batch'"),
        ({"rna_layer": "count"}, r"mdata\['rna'\]: .* no layer 'count'. Did you mean 'counts'"),
        ({"atac_mask_var": "chosen"}, r"mdata\['atac'\]: var has no column 'chosen'"),
    ],
    ids=["batch", "layer", "mask"],
)
def test_what_is_not_there_is_named_with_the_near_one(options: dict, message: str):
    mdata = cells()
    before = contents(mdata)
    with pytest.raises(MissingKeyError, match=message):
        multivi(mdata, **options)
    assert_same(contents(mdata), before)


def test_a_view_can_be_copied():
    view = cells()[:40]
    done = multivi(view, copy=True)
    assert view.is_view
    assert (done.is_view, done.n_obs, done.obsm["X_multivi"].shape) == (False, 40, (40, 2))


def test_an_anndata_of_nobody_knows_what_is_refused_with_the_way_to_a_mudata():
    adata = cells()["rna"].copy()
    del adata.var["feature_types"]
    with pytest.raises(MissingKeyError, match=r"no column 'feature_types'.*pp\.organize_multiome"):
        multivi(adata)
    with pytest.raises(InputError, match=r"takes an AnnData or a MuData, not str\. .*mudata\.read_h5mu"):
        multivi("study.h5mu")


def test_a_training_option_that_is_unknown_is_a_type_error():
    with pytest.raises(TypeError, match=r"tl\.multivi got an unexpected argument 'batch_sise'.*'batch_size'"):
        multivi(cells(), batch_sise=1)


def test_nothing_is_said_at_verbosity_0_and_all_that_was_written_at_2(capfd):
    mdata = cells()
    capfd.readouterr()
    multivi(mdata)
    assert capfd.readouterr() == ("", "")
    with settings.override(verbosity=2):
        multivi(mdata)
    err = capfd.readouterr().err
    assert "multivi: 1 epochs on cpu" in err
    for place in ("obsm['X_multivi']", "mdata['atac'].layers['multivi_denoised']", "uns['multivi']"):
        assert place in err
