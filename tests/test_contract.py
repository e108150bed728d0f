"""What every model verb writes, draws and leaves alone. The verbs are in contract.py."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import scvi_pp as svp
from scvi_pp import settings
from scvi_pp._errors import InputError, ScviPPError
from tests.contract import VERBS, Verb, assert_only_added, assert_same, contents, fitted, latent_of_default

pytestmark = [pytest.mark.parametrize("verb", VERBS, ids=str), pytest.mark.usefixtures("quiet")]


# ---- what is written


def test_call_returns_nothing_and_adds_the_documented_entries_only(verb: Verb):
    adata = verb.data()
    before = contents(adata)
    assert verb(adata, batch_key="batch") is None
    assert_only_added(before, adata, verb.written())


@pytest.mark.every_form
def test_results_have_the_documented_types_and_shapes(verb: Verb):
    adata = fitted(verb)
    latent = adata.obsm[f"X_{verb.name}"]
    assert (latent.dtype, latent.shape) == (np.float32, (adata.n_obs, verb.quick["n_latent"]))
    assert np.isfinite(latent).all()
    if verb.writes_denoised:
        layer = adata.layers[f"{verb.name}_denoised"]
        assert (type(layer), layer.dtype, layer.shape) == (np.ndarray, np.float32, adata.shape)
        assert (layer >= 0).all()
    record = adata.uns[verb.name]
    assert list(record) == ["params", "history", "model"]
    assert {type(value) for value in record["params"].values()} <= {bool, int, float, str}
    assert all(curve.dtype == np.float32 and curve.shape == (1,) for curve in record["history"].values())
    assert not verb(verb.data(), copy=True).uns[verb.name]["model"]["blob"].flags.writeable


def test_copy_has_the_results_and_the_object_has_not(verb: Verb):
    adata = verb.data()
    before = contents(adata)
    copied = verb(adata, copy=True)
    assert_same(contents(adata), before)
    assert_only_added(before, copied, verb.written())
    verb(adata)
    assert_same(copied.obsm[f"X_{verb.name}"], adata.obsm[f"X_{verb.name}"])


def test_key_added_replaces_every_name(verb: Verb):
    adata = verb.data()
    before = contents(adata)
    verb(adata, key_added="mine")
    assert_only_added(before, adata, verb.written("mine"))
    np.testing.assert_array_equal(svp.get.latent(adata, key="mine"), adata.obsm["mine"])
    np.testing.assert_array_equal(svp.get.latent(adata), adata.obsm["mine"])


def test_two_fits_live_side_by_side(verb: Verb):
    adata = verb.data()
    verb(adata, key_added="one", rng=1)
    before = contents(adata)
    verb(adata, key_added="two", rng=2)
    assert_only_added(before, adata, verb.written("two"))
    np.testing.assert_array_equal(svp.get.latent(adata, key="one"), adata.obsm["one"])
    with pytest.raises(
        InputError, match=r"uns holds 2 fitted models\. Say which one with key=\. Models here: one, two"
    ):
        svp.get.latent(adata)


def test_denoised_layer_is_written_if_wanted_or_small(verb: Verb, capfd):
    layer = f"layers[{verb.name}_denoised]"
    adata = verb.data()
    verb(adata, denoise=False)
    assert layer not in contents(adata)
    with settings.override(max_layer_bytes=4 * adata.n_obs * adata.n_vars - 1, verbosity=2):
        capfd.readouterr()
        verb(adata)
        said = capfd.readouterr().err
        assert layer not in contents(adata)
        assert f"tl.denoise(adata, key={verb.name!r}" in said
        assert ("threshold=0.1)" in said) == (verb.features == "regions")
        assert f"get.denoised(adata, {verb.features}=...)" in said
        verb(adata, denoise=True)
        assert layer in contents(adata)
    with settings.override(max_layer_bytes=4 * adata.n_obs * adata.n_vars):
        del adata.layers[f"{verb.name}_denoised"]
        verb(adata)
        assert layer in contents(adata)


def test_view_becomes_an_object_of_its_own_and_its_parent_stays(verb: Verb):
    parent = verb.data(80)
    before = contents(parent)
    view = parent[10:70, ::2]
    verb(view)
    assert not view.is_view
    assert_same(contents(parent), before)
    alone = parent[10:70, ::2].copy()
    verb(alone)
    assert_same(view.obsm[f"X_{verb.name}"], alone.obsm[f"X_{verb.name}"])
    assert list(view.obs_names) == list(alone.obs_names)


def test_copy_of_a_view_leaves_it_a_view(verb: Verb):
    view = verb.data()[:40]
    copied = verb(view, copy=True)
    assert view.is_view
    assert not copied.is_view
    assert copied.n_obs == 40


@pytest.mark.every_form
def test_refit_replaces_the_results_by_the_same(verb: Verb):
    adata = fitted(verb)
    first = contents(adata)
    verb(adata)
    again = contents(adata)
    timed = f"uns[{verb.name}]"  # holds how long it took
    assert_same({k: v for k, v in again.items() if k != timed}, {k: v for k, v in first.items() if k != timed})
    assert_same(again[timed]["history"], first[timed]["history"])


# ---- randomness


@pytest.mark.every_form
def test_same_seed_gives_same_bits_and_another_gives_others(verb: Verb):
    adata, default = verb.data(), latent_of_default(verb)
    with settings.override(seed=7):
        from_settings = verb.latent(adata)
    assert_same(verb.latent(adata, rng=0), default)
    assert_same(verb.latent(adata, random_state=0), default)
    assert_same(verb.latent(adata, rng=np.int64(7)), from_settings)
    assert not np.allclose(default, from_settings)


def test_numpy_generators_are_accepted_and_moved_on(verb: Verb):
    adata = verb.data()
    for make, argument in ((np.random.default_rng, "rng"), (np.random.RandomState, "random_state")):
        generator = make(3)
        first, second = (verb.latent(adata, **{argument: generator}) for _ in range(2))
        assert_same(verb.latent(adata, **{argument: make(3)}), first)
        assert not np.allclose(first, second)


@pytest.mark.parametrize(
    "seeds", [{"rng": 1, "random_state": 1}, {"rng": "a"}, {"rng": -1}, {"random_state": 1.5}, {"rng": 2**32}], ids=str
)
def test_what_is_no_seed_is_refused(verb: Verb, seeds: dict):
    adata = verb.data()
    before = contents(adata)
    with pytest.raises(InputError, match="rng|random_state"):
        verb(adata, **seeds)
    assert_same(contents(adata), before)


def test_global_random_states_are_neither_read_nor_moved(verb: Verb):
    adata, expected = verb.data(), latent_of_default(verb)
    torch.manual_seed(12)
    np.random.seed(12)  # noqa: NPY002 - the global state is the point
    random.seed(12)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    verb(adata, batch_key="batch")
    svp.get.latent(adata, key=verb.name, kind="sample")
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]
    assert_same(verb.latent(adata), expected)


def test_torch_is_left_as_it_was_set(verb: Verb):
    def state() -> tuple:
        return (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_anomaly_enabled(),
        )

    adata = verb.data()
    before = state()
    verb(adata)
    assert state() == before


@pytest.mark.every_form
@pytest.mark.parametrize("setting", ["no_grad", "inference_mode", "float64"])
def test_what_a_notebook_has_set_in_torch_does_not_matter(verb: Verb, setting: str):
    adata, expected = verb.data(), latent_of_default(verb)
    if setting == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        with {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(setting, torch.enable_grad)():
            found = verb.latent(adata)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(found, expected)


# ---- what is said


def test_nothing_is_said_at_verbosity_0(verb: Verb, capfd):
    adata = verb.data()
    capfd.readouterr()
    with settings.override(verbosity=0, progress="auto"):
        verb(adata, batch_key="batch")
        svp.get.latent(adata, key=verb.name)
    assert capfd.readouterr() == ("", "")


def test_one_line_sums_up_at_verbosity_2_and_none_at_1(verb: Verb, capfd):
    adata = verb.data()
    capfd.readouterr()
    with settings.override(verbosity=2):
        verb(adata, max_epochs=2)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for part in (verb.name, "2 epochs on cpu", "ELBO", " s. ", f"obsm['X_{verb.name}']", f"uns['{verb.name}']"):
        assert part in err
    with settings.override(verbosity=1):
        verb(adata)
    assert capfd.readouterr() == ("", "")


def test_progress_bar_is_drawn_to_stderr_if_wanted(verb: Verb, capfd):
    adata = verb.data()
    capfd.readouterr()
    with settings.override(verbosity=1, progress=True):
        verb(adata)
    out, err = capfd.readouterr()
    assert out == ""
    assert verb.name in err


# ---- failures

STAGES = {
    "reading": "scvi_pp.tl._fitting.read",
    "moving to the device": "scvi_pp._backend.streams._place",
    "training": "scvi_pp._backend.fit._Loop._train",
    "validation": "scvi_pp._backend.fit._Loop._validate",
    "asking for the latent": "scvi_pp._backend.query.Posterior.latent_mean",
    "denoising": "scvi_pp._backend.query.Posterior.denoised",
    "packing the model": "scvi_pp._data.fitted.pack",
    "writing": "scvi_pp._data.write._check",
    "writing the second entry": "anndata._core.aligned_mapping.AlignedActual.__setitem__",
}


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt], ids=lambda error: error.__name__)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fitted_before", [False, True], ids=["fresh", "fitted before"])
def test_failure_leaves_the_object_as_it_was(verb: Verb, stage: str, error: type, fitted_before: bool, monkeypatch):
    if stage == "denoising" and not verb.writes_denoised:
        pytest.skip("writes no denoised layer")
    if stage == "denoising" and error is not RuntimeError:
        pytest.skip("the model is kept: test_model_survives_when_its_denoised_layer_cannot_be_made")
    adata = fitted(verb, rng=1) if fitted_before else verb.data()
    before = contents(adata)
    n_calls = 0

    def fail(*_args, **_kwargs) -> None:
        nonlocal n_calls
        n_calls += 1
        raise error("injected")

    monkeypatch.setattr(STAGES[stage], fail)
    with pytest.raises(error, match="injected"):
        verb(adata)
    monkeypatch.undo()
    assert n_calls
    assert_same(contents(adata), before)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_model_survives_when_its_denoised_layer_cannot_be_made(verb: Verb, error: type, monkeypatch):
    if not verb.writes_denoised:
        pytest.skip("writes no denoised layer")

    def fail(*_args, **_kwargs) -> None:
        raise error

    adata = verb.data()
    with monkeypatch.context() as patch:
        patch.setattr(STAGES["denoising"], fail)
        verb(adata)
    assert not any("denoised" in str(name) for name in adata.layers)
    assert_same(svp.get.latent(adata, key=verb.name), adata.obsm[f"X_{verb.name}"])
    svp.tl.denoise(adata, key=verb.name)
    assert np.isfinite(adata.layers[f"{verb.name}_denoised"]).all()


def test_failure_leaves_a_view_a_view(verb: Verb, monkeypatch):
    parent = verb.data()
    view = parent[:40]
    monkeypatch.setattr(STAGES["training"], lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verb(view)
    assert view.is_view


def test_failure_leaves_the_random_state_as_it_was(verb: Verb, monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setattr(STAGES["validation"], lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verb(verb.data())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_added": "a/b"}, "key_added='a/b' cannot be a key"),
        ({"key_added": ""}, "key_added='' cannot be a key"),
        ({"key_added": 3}, r"key_added takes a name \(str\), not 3"),
        ({"denoise": "yes"}, "denoise='yes' must be True, False or None"),
        ({"save_model": 3}, "save_model takes True, False or a path"),
        ({"save_model": "no/such/folder/model"}, "the folder '.*no/such/folder' is missing"),
        ({"device": "abacus"}, "device='abacus' cannot be used here: .* device='cpu'"),
        ({"n_latent": 0}, "n_latent=0 must be a whole number of at least 1"),
        ({"n_latent": 2.5}, "n_latent=2.5 must be a whole number"),
    ],
    ids=str,
)
def test_impossible_argument_is_named_and_nothing_is_trained(verb: Verb, options: dict, message: str, monkeypatch):
    monkeypatch.setattr(STAGES["training"], lambda *_: pytest.fail("trained"))
    adata = verb.data()
    before = contents(adata)
    with pytest.raises(InputError, match=message) as caught:
        verb(adata, **options)
    assert isinstance(caught.value, ScviPPError)
    assert_same(contents(adata), before)


@pytest.mark.parametrize(
    ("option", "hint"), [("batch_sise", "'batch_size'"), ("n_epochs", "'max_epochs'"), ("xyz", "Training options")]
)
def test_unknown_argument_is_a_type_error_with_the_near_one(verb: Verb, option: str, hint: str):
    adata = verb.data()
    with pytest.raises(TypeError, match=rf"tl\.{verb.name} got an unexpected argument '{option}'.*{hint}"):
        verb(adata, **{option: 1})
