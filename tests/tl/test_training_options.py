"""The training options that every model verb takes, as they show from outside; tl.scvi stands for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._backend import fit as fit_module
from scvi_pp._backend.models import scvi as scvi_model
from scvi_pp._errors import InputError, TrainingError
from tests.contract import QUICK, assert_same, contents
from tests.fits import cells
from tests.studies import Judge, seeds

pytestmark = pytest.mark.usefixtures("quiet")


def fitted(n_obs: int = 60, **options):
    adata = cells(n_obs)
    tl.scvi(adata, **{**QUICK, "denoise": False, **options})
    return adata


def params(adata) -> dict:
    return adata.uns["scvi"]["params"]


# ---- how long


def test_epochs_are_counted_and_the_best_is_kept():
    adata = fitted(max_epochs=5)
    history = get.history(adata)
    assert len(history) == params(adata)["n_epochs"] == 5
    assert params(adata)["best_epoch"] == history["elbo_validation"].idxmax()
    assert params(adata)["elbo"] == pytest.approx(history["elbo_validation"].max())
    assert params(adata)["ended"] == "budget"


def test_best_weights_are_those_that_are_stored(monkeypatch):
    """Weights that get worse after the second epoch are not the ones that are kept."""
    validate = fit_module._Loop._validate

    def worse_and_worse(loop):
        return validate(loop) | {"elbo_validation": -100.0 - abs(loop.run.epoch - 1)}

    monkeypatch.setattr(fit_module._Loop, "_validate", worse_and_worse)
    five = fitted(max_epochs=5, learning_rate=0.01)
    assert params(five)["best_epoch"] == 2
    monkeypatch.setattr(
        fit_module._Loop, "_validate", lambda loop: validate(loop) | {"elbo_validation": loop.run.epoch}
    )
    last = fitted(max_epochs=5, learning_rate=0.01)
    assert params(last)["best_epoch"] == 5
    assert not np.allclose(five.obsm["X_scvi"], last.obsm["X_scvi"])


def test_training_ends_when_patience_is_at_its_end():
    options = {"max_epochs": 300, "learning_rate": 0.05, "patience": 3}
    early = fitted(**options)
    assert params(early)["ended"] == "converged"
    assert params(early)["n_epochs"] == params(early)["best_epoch"] + 3 < 300
    late = fitted(**{**options, "max_epochs": 30}, early_stopping=False)
    assert params(late)["n_epochs"] == 30


def test_more_epochs_explain_cells_better():
    few, many = (fitted(n_obs=200, batch_size=20, max_epochs=n) for n in (1, 60))
    assert get.elbo(many, n_samples=20) > get.elbo(few, n_samples=20) + 1


def test_default_budget_is_in_steps_so_small_data_get_more_epochs():
    from scvi_pp._backend.schedule import default_epochs

    budgets = [default_epochs(n, 128) for n in (100, 1_000, 10_000, 100_000, 1_000_000)]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-1] >= 1


# ---- how fast


def test_learning_rate_rises_then_falls_to_nothing():
    rates = get.history(fitted(max_epochs=40, learning_rate=0.01, early_stopping=False))["learning_rate"]
    assert rates.max() == pytest.approx(0.01, rel=0.05)
    assert rates.iloc[0] < rates.max()
    assert rates.iloc[-1] < 0.01 * 0.02
    assert (np.diff(rates[rates.idxmax() :]) < 0).all()


def test_kl_weight_rises_over_the_share_of_the_run_and_stays():
    options = {"max_epochs": 20, "early_stopping": False}
    weights = get.history(fitted(**options, kl_warmup=0.5, kl_weight=2.0))["kl_weight"].to_numpy()
    assert (np.diff(weights[:10]) > 0).all()
    np.testing.assert_allclose(weights[11:], 2.0)
    np.testing.assert_allclose(get.history(fitted(**options, kl_warmup=0))["kl_weight"], 1.0)


def test_kl_weight_draws_the_posterior_to_the_prior(judge: Judge):
    spread = [fitted(max_epochs=40, kl_weight=weight, rng=seeds(1)[0]).obsm["X_scvi"].std() for weight in (0.0, 20.0)]
    judge("scvi: spread of X_scvi with a KL weight of 20, over that without", spread[1] / spread[0], below=0.4)


def test_weight_decay_and_learning_rate_change_the_fit():
    default = fitted(max_epochs=3).obsm["X_scvi"]
    assert not np.allclose(fitted(max_epochs=3, weight_decay=10.0).obsm["X_scvi"], default)
    assert not np.allclose(fitted(max_epochs=3, learning_rate=0.05).obsm["X_scvi"], default)


# ---- on which cells


def test_share_of_cells_is_held_out(monkeypatch):
    seen = []
    original = fit_module._Loop.begin

    def look(loop):
        seen.append((loop.training.numpy().copy(), loop.validation.numpy().copy()))
        original(loop)

    monkeypatch.setattr(fit_module._Loop, "begin", look)
    fitted(validation_size=0.25)
    training, validation = seen.pop()
    assert (len(training), len(validation)) == (45, 15)
    assert sorted([*training, *validation]) == list(range(60))
    fitted(validation_size=0)
    assert len(seen.pop()[1]) == 0
    mask = np.arange(60) % 7 == 0
    for given in (np.flatnonzero(mask), list(np.flatnonzero(mask)[::-1]), mask):
        fitted(validation_indices=given)
        training, validation = seen.pop()
        np.testing.assert_array_equal(validation, np.flatnonzero(mask))
        np.testing.assert_array_equal(training, np.flatnonzero(~mask))


def test_held_out_cells_do_not_touch_the_weights():
    """What they are changes nothing but which epoch is kept."""
    mask = np.arange(60) < 20
    adata = cells()
    adata.X = adata.X.toarray()
    latents = []
    for _ in range(2):
        tl.scvi(adata, **QUICK, denoise=False, validation_indices=mask)
        latents.append(adata.obsm["X_scvi"].copy())
        adata.X[mask] = adata.X[mask][:, ::-1] + 3
    np.testing.assert_array_equal(latents[0][~mask], latents[1][~mask])
    assert not np.allclose(latents[0][mask], latents[1][mask])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "max_epochs=0 must be a whole number of at least 1"),
        ({"max_epochs": 2.5}, "max_epochs=2.5 must be a whole number"),
        ({"max_epochs": float("inf")}, "max_epochs=inf must be a whole number"),
        ({"max_epochs": "10"}, "max_epochs='10' must be a whole number"),
        ({"batch_size": 1}, "batch_size=1 must be a whole number of at least 2"),
        ({"learning_rate": 0}, "learning_rate=0 must be a number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a number"),
        ({"weight_decay": -1}, "weight_decay=-1 must be a number of at least 0"),
        ({"kl_warmup": 1.5}, "kl_warmup=1.5 must be a number of at least 0 and at most 1"),
        ({"kl_weight": -0.1}, "kl_weight=-0.1 must be a number of at least 0"),
        ({"patience": 0}, "patience=0 must be a whole number of at least 1"),
        ({"validation_size": 0.95}, "validation_size=0.95 must be a number of at least 0 and at most 0.9"),
        ({"early_stopping": "yes"}, "early_stopping='yes' must be True or False"),
        ({"early_stopping": 0}, "early_stopping=0 must be True or False"),
        ({"validation_indices": [0, 60]}, "validation_indices holds positions outside 0..59"),
        ({"validation_indices": [-1]}, "validation_indices holds positions outside 0..59"),
        ({"validation_indices": np.ones(59, bool)}, r"a mask of shape \(59,\); there are 60 cells"),
        ({"validation_indices": np.ones(60, bool)}, "leaves 0 cells to train on; at least 2 are needed"),
        ({"validation_indices": [0.5]}, "must be a list of positions"),
        ({"validation_indices": ["cell0"]}, "must be a list of positions"),
        ({"checkpoint": 3}, "checkpoint=3 must be a path"),
    ],
    ids=str,
)
def test_impossible_option_is_refused_before_training(options: dict, message: str, monkeypatch):
    monkeypatch.setattr(fit_module._Loop, "run_all", lambda *_: pytest.fail("trained"))
    adata = cells()
    before = contents(adata)
    with pytest.raises(InputError, match=message):
        tl.scvi(adata, **{**QUICK, **options})
    assert_same(contents(adata), before)


# ---- when losses are not finite


def break_losses(monkeypatch, broken) -> None:
    """Make the ELBO NaN at the calls of which `broken(number)` is true."""
    elbo, n_calls = scvi_model.Network.elbo, 0

    def sometimes(network, minibatch):
        nonlocal n_calls
        n_calls += 1
        found = elbo(network, minibatch)
        return found._replace(reconstruction=found.reconstruction * np.nan) if broken(n_calls) else found

    monkeypatch.setattr(scvi_model.Network, "elbo", sometimes)


def test_a_loss_that_is_not_finite_is_recovered_from(monkeypatch, capfd):
    break_losses(monkeypatch, lambda call: call == 5)
    with svp.settings.override(verbosity=1):
        adata = fitted(max_epochs=6, validation_size=0, learning_rate=0.004)
    assert "not finite in epoch 5: back to the best weights so far, learning rate 0.002" in capfd.readouterr().err
    assert np.isfinite(adata.obsm["X_scvi"]).all()
    history = get.history(adata)
    assert len(history) == 6
    assert np.isfinite(history.to_numpy()).all()


def test_a_loss_that_is_never_finite_ends_with_the_cells_named(monkeypatch):
    break_losses(monkeypatch, lambda _: True)
    adata = cells(n_obs=12)
    before = contents(adata)
    with pytest.raises(TrainingError, match=r"never finite.* cannot explain 12 cells: 'cell\d+', .* and 4 more"):
        tl.scvi(adata, **QUICK)
    assert_same(contents(adata), before)


def test_a_loss_that_stays_broken_leaves_the_best_so_far(monkeypatch, capfd):
    break_losses(monkeypatch, lambda call: call > 3)
    with svp.settings.override(verbosity=1):
        adata = fitted(max_epochs=10, validation_size=0)
    assert "Training ends with the weights of epoch 3" in capfd.readouterr().err
    assert params(adata)["ended"] == "diverged"
    assert np.isfinite(adata.obsm["X_scvi"]).all()


# ---- the stop button


def press_after(monkeypatch, n_epochs: int) -> None:
    train, n_calls = fit_module._Loop._train, 0

    def pressed(loop, button):
        nonlocal n_calls
        n_calls += 1
        if n_calls > n_epochs:
            os.kill(os.getpid(), signal.SIGINT)
        return train(loop, button)

    monkeypatch.setattr(fit_module._Loop, "_train", pressed)


def test_stop_button_keeps_what_was_reached(monkeypatch, capfd):
    press_after(monkeypatch, 3)
    previous = signal.getsignal(signal.SIGINT)
    with svp.settings.override(verbosity=2):
        adata = fitted(max_epochs=1000)
    assert signal.getsignal(signal.SIGINT) is previous
    assert params(adata)["ended"] == "stopped"
    assert params(adata)["n_epochs"] == 4
    assert "stopped by you" in capfd.readouterr().err
    assert np.isfinite(get.latent(adata)).all()


# ---- checkpoints


def interrupted(path: Path, monkeypatch, *, after: int, **options) -> None:
    """A run that dies once its file holds that many epochs."""

    class Killed(BaseException):
        pass

    save = fit_module._Loop._save

    def die(loop):
        save(loop)
        if loop.run.epoch == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(fit_module._Loop, "_save", die)
        with pytest.raises(Killed):
            fitted(**options, checkpoint=path)


@pytest.mark.parametrize("after", [1, 4])
def test_continued_run_is_the_uninterrupted_one_bit_for_bit(after: int, tmp_path: Path, monkeypatch):
    options = {"max_epochs": 6, "batch_key": "batch", "learning_rate": 0.01, "batch_size": 16}
    interrupted(tmp_path / "run", monkeypatch, after=after, **options)
    continued = fitted(**options, checkpoint=tmp_path / "run")
    whole = fitted(**options)
    np.testing.assert_array_equal(continued.obsm["X_scvi"], whole.obsm["X_scvi"])
    assert_same(continued.uns["scvi"]["history"], whole.uns["scvi"]["history"])
    assert params(continued)["best_epoch"] == params(whole)["best_epoch"]
    assert not list(tmp_path.glob("*.part"))


def test_finished_run_is_not_trained_again(tmp_path: Path, monkeypatch):
    first = fitted(max_epochs=3, checkpoint=tmp_path / "run")
    monkeypatch.setattr(fit_module._Loop, "_train", lambda *_: pytest.fail("trained"))
    np.testing.assert_array_equal(
        fitted(max_epochs=3, checkpoint=tmp_path / "run").obsm["X_scvi"], first.obsm["X_scvi"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": 4}, "max_epochs was 3, now 4"),
        ({"rng": 5}, "rows was|seed was"),
        ({"n_hidden": 5}, "n_hidden was 4, now 5"),
        ({"layer": "lognorm", "gene_likelihood": "normal"}, "the data differ|gene_likelihood was"),
        ({"n_obs": 59}, "the data differ|rows was"),
    ],
    ids=str,
)
def test_checkpoint_of_another_call_is_refused(change: dict, message: str, tmp_path: Path):
    fitted(max_epochs=3, checkpoint=tmp_path / "run")
    with pytest.raises(InputError, match=f"is of another run: .*({message})"):
        fitted(**{"max_epochs": 3, **change}, checkpoint=tmp_path / "run")


def test_file_that_is_no_checkpoint_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    with pytest.raises(InputError, match="is no checkpoint of scvi_pp"):
        fitted(checkpoint=path)
    assert path.read_text() == "my notes"


RUN = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
import scvi_pp as svp
from scvi_pp._backend import fit
fit.CHECKPOINT_SECONDS = 0.0
svp.settings.verbosity = 0
adata = svp.datasets.simulate_rna(200, 40, rng=0)
path = sys.argv[1] if sys.argv[1] != "none" else None
svp.tl.scvi(adata, max_epochs=60, n_hidden=8, early_stopping=False, device="cpu", checkpoint=path)
np.save(sys.argv[3], adata.obsm["X_scvi"])
"""


@pytest.mark.slow
def test_killed_process_is_continued_bit_for_bit(tmp_path: Path):
    root = str(Path(svp.__file__).parents[1])

    def command(checkpoint, out) -> list[str]:
        return [sys.executable, "-c", RUN, str(checkpoint), root, str(tmp_path / out)]

    first = subprocess.Popen(command(tmp_path / "run", "killed.npy"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "run").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    first.kill()
    first.wait()
    assert not (tmp_path / "killed.npy").exists(), "it was too fast to be killed"
    subprocess.run(command(tmp_path / "run", "continued.npy"), check=True, timeout=300)
    subprocess.run(command("none", "whole.npy"), check=True, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "continued.npy"), np.load(tmp_path / "whole.npy"))
