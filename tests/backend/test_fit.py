"""The training loop: it ends where it says, keeps the best, survives what goes wrong, and is the same every time."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import scvi_pp as svp
from scvi_pp._backend import kernels
from scvi_pp._backend.crew import working_together
from scvi_pp._backend.device import private_random, reseed
from scvi_pp._backend.fit import INFERENCE_BATCH, MAX_SETBACKS, Diverged, Outcome, _epoch_seed, fit, split
from scvi_pp._backend.kernels.counts import dense, totals
from scvi_pp._backend.models.scvi import Network
from scvi_pp._backend.schedule import Schedule
from scvi_pp._errors import TrainingError
from tests.backend import interruptions, small

N_CELLS = 60
N_STEPS = 3 + 1  # losses of an epoch: three minibatches of 16, and the held-out cells


@pytest.fixture
def inputs() -> Any:
    return small.arrays(N_CELLS)


def trained(inputs: Any, network: Any = None, **options: Any) -> tuple[Any, Outcome]:
    network = small.network(inputs) if network is None else network
    return network, fit(network, small.cells(inputs), small.plan(inputs.counts.shape[0], **options))


def same_weights(first: Any, second: Any) -> bool:
    ours, others = first.state_dict(), second.state_dict()
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


# ---- an ordinary run


def test_a_run_goes_through_its_budget_and_records_every_epoch(inputs: Any):
    _, outcome = trained(inputs, max_epochs=6)
    assert (outcome.ended, outcome.n_epochs) == ("budget", 6)
    assert outcome.history.keys() >= {"elbo_train", "elbo_validation", "learning_rate", "kl_weight"}
    for values in outcome.history.values():
        assert values.shape == (6,)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


def test_training_improves_the_held_out_bound(inputs: Any):
    _, outcome = trained(inputs, max_epochs=20)
    assert outcome.best_elbo > outcome.history["elbo_validation"][0]


def test_the_schedule_is_followed_to_its_end(inputs: Any):
    _, outcome = trained(inputs, max_epochs=8, learning_rate=2e-3, kl_warmup=0.5, kl_weight=0.7)
    schedule = Schedule(2e-3, 0.5, 0.7)
    progress = (np.arange(1, 9) * 3 - 1) / 24  # of the last step of each epoch
    expected = [[schedule.learning_rate_at(p), schedule.kl_weight_at(p)] for p in progress]
    found = np.stack([outcome.history["learning_rate"], outcome.history["kl_weight"]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_same_seed_gives_the_same_bits(inputs: Any):
    (first, before), (second, after) = trained(inputs), trained(inputs)
    assert same_weights(first, second)
    for name, values in before.history.items():
        np.testing.assert_array_equal(values, after.history[name])


def test_another_seed_gives_another_run(inputs: Any):
    assert not same_weights(trained(inputs)[0], trained(inputs, seed=1)[0])


def test_global_random_states_are_left_alone(inputs: Any):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained(inputs)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_training_is_in_train_mode_validation_and_the_end_in_eval_mode(inputs: Any):
    network, modes = small.network(inputs), []
    interruptions.at_losses(network, *range(1, 100), do=lambda: modes.append(network.training))
    network.eval()
    trained(inputs, network, max_epochs=2)
    assert modes == 2 * [True, True, True, False]
    assert not network.training


@pytest.mark.parametrize("n_cells", [2, 3, 17, 33])
def test_any_number_of_cells_can_be_trained_on(n_cells: int):
    inputs = small.arrays(n_cells, n_batches=1)
    rows = np.arange(n_cells)
    _, outcome = trained(inputs, training_rows=rows, validation_rows=rows[:0], max_epochs=2)
    assert np.isfinite(outcome.best_elbo)


def test_cells_that_are_held_out_are_not_trained_on(inputs: Any):
    seen = []
    network = small.network(inputs)
    original = network.elbo
    network.elbo = lambda cells: (seen.append(dense(cells.counts)) if network.training else None) or original(cells)
    plan = small.plan(N_CELLS)
    fit(network, small.cells(inputs), plan)
    rows = {row.tobytes() for minibatch in seen for row in minibatch.numpy()}
    counts = inputs.counts.toarray()
    assert rows == {row.tobytes() for row in counts[plan.training_rows]}
    assert rows.isdisjoint(row.tobytes() for row in counts[plan.validation_rows])


# ---- the best weights


@pytest.mark.parametrize("early_stopping", [True, False])
def test_the_network_ends_with_its_best_weights(inputs: Any, early_stopping: bool):
    network = small.network(inputs)
    interruptions.worse_after(network, 3)
    _, outcome = trained(inputs, network, max_epochs=10, early_stopping=early_stopping, patience=4)
    held_out = outcome.history["elbo_validation"]
    assert outcome.best_elbo == pytest.approx(held_out.max())
    assert outcome.best_epoch == int(held_out.argmax()) + 1 <= 3
    del network.elbo
    assert _held_out_elbo(network, inputs) == outcome.best_elbo


def _held_out_elbo(network: Any, inputs: Any) -> float:
    """With the draws that training takes for it, the form of the kernels, and one thread."""
    plan, cells = small.plan(N_CELLS), small.cells(inputs)
    with kernels.use("analytic"), working_together(1), private_random(small.CPU, 0), torch.no_grad():
        reseed(small.CPU, _epoch_seed(plan.seed, -1))
        blocks = cells.blocks(INFERENCE_BATCH, torch.tensor(plan.validation_rows))
        return float(torch.cat([network.elbo(cell).bound for _, cell in blocks]).double().sum()) / 12


@pytest.mark.parametrize(("kl_warmup", "n_warm"), [(0.0, 0), (0.25, 15)])
def test_a_run_that_no_longer_improves_ends_as_converged_once_the_kl_term_is_whole(
    inputs: Any, kl_warmup: float, n_warm: int
):
    network = small.network(inputs)
    interruptions.worse_after(network, 3)
    _, outcome = trained(inputs, network, max_epochs=60, patience=4, kl_warmup=kl_warmup)
    assert outcome.ended == "converged"
    assert outcome.n_epochs == max(outcome.best_epoch, n_warm) + 4


def test_without_early_stopping_the_budget_is_used_up(inputs: Any):
    network = small.network(inputs)
    interruptions.worse_after(network, 3)
    _, outcome = trained(inputs, network, max_epochs=12, patience=4, early_stopping=False)
    assert (outcome.ended, outcome.n_epochs) == ("budget", 12)


def test_without_held_out_cells_the_last_epoch_counts(inputs: Any):
    rows = np.arange(N_CELLS)
    _, outcome = trained(inputs, training_rows=rows, validation_rows=rows[:0], patience=1)
    assert (outcome.ended, outcome.best_epoch) == ("budget", 6)
    assert "elbo_validation" not in outcome.history
    assert outcome.best_elbo == pytest.approx(outcome.history["elbo_train"][-1])


# ---- setbacks


@pytest.mark.parametrize("step", [1, 2 * N_STEPS + 2, 3 * N_STEPS], ids=["first step", "a step", "held-out cells"])
def test_a_loss_that_is_not_finite_costs_half_the_learning_rate(
    inputs: Any, step: int, capsys: pytest.CaptureFixture[str]
):
    _, undisturbed = trained(inputs)
    network = small.network(inputs)
    interruptions.not_finite_at(network, step)
    _, outcome = trained(inputs, network)
    assert (outcome.ended, outcome.n_epochs) == ("budget", 6)
    assert all(np.isfinite(values).all() for values in outcome.history.values())
    epoch = (step - 1) // N_STEPS
    slowdown = np.where(np.arange(6) < epoch, 1.0, 0.5)
    np.testing.assert_allclose(
        outcome.history["learning_rate"], undisturbed.history["learning_rate"] * slowdown, rtol=1e-6
    )
    np.testing.assert_array_equal(
        outcome.history["elbo_validation"][:epoch], undisturbed.history["elbo_validation"][:epoch]
    )
    assert f"The loss was not finite in epoch {epoch + 1}: back to the best weights so far" in capsys.readouterr().err
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_after_a_setback_the_epoch_starts_from_the_best_weights(inputs: Any):
    network, starts = small.network(inputs), []
    interruptions.not_finite_at(network, N_STEPS + 2)
    interruptions.at_losses(
        network, N_STEPS + 1, 2 * N_STEPS + 1, do=lambda: starts.append(network.decoder.scale.weight.detach().clone())
    )
    with svp.settings.override(verbosity=0):
        trained(inputs, network)
    assert len(starts) == 2
    assert torch.equal(*starts)


def test_a_last_step_that_breaks_the_weights_is_undone(inputs: Any):
    """No loss of the epoch has seen it, and there are no held-out cells to see it either."""
    network, rows = small.network(inputs), np.arange(N_CELLS)
    original, n_losses = network.elbo, 0

    def elbo(cells: Any) -> Any:
        nonlocal n_losses
        n_losses += 1
        found = original(cells)
        if n_losses == 8:  # the last of the four steps of epoch 2: finite, with a gradient that is not
            found.reconstruction.register_hook(lambda gradient: gradient * torch.nan)
        return found

    network.elbo = elbo
    with svp.settings.override(verbosity=0):
        _, outcome = trained(inputs, network, training_rows=rows, validation_rows=rows[:0])
    assert (outcome.ended, outcome.n_epochs) == ("budget", 6)
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_a_run_that_keeps_failing_ends_with_its_best_weights(inputs: Any, capsys: pytest.CaptureFixture[str]):
    network = small.network(inputs)
    interruptions.not_finite_at(network, *range(2 * N_STEPS + 1, 500))
    _, outcome = trained(inputs, network)
    assert (outcome.ended, outcome.n_epochs) == ("diverged", 2)
    assert f"not finite {MAX_SETBACKS + 1} times" in capsys.readouterr().err
    del network.elbo
    assert _held_out_elbo(network, inputs) == outcome.best_elbo


def test_a_loss_that_is_never_finite_names_the_cells(inputs: Any):
    network = small.network(inputs)
    total = torch.tensor(np.asarray(inputs.counts.sum(1)).ravel())
    interruptions.not_finite_for(network, lambda cells: totals(cells.counts) == total[7])
    with svp.settings.override(verbosity=0), pytest.raises(Diverged) as caught:
        trained(inputs, network)
    expected = set(np.flatnonzero(total == total[7]).tolist())
    assert set(caught.value.rows.tolist()) == expected


def test_a_failed_fit_names_the_cells_and_leaves_the_object_untouched(monkeypatch: pytest.MonkeyPatch, quiet: Any):
    counts = small.arrays(N_CELLS).counts.toarray()
    counts[7, 3] = 900
    adata = _adata(counts)
    before = adata.copy()
    monkeypatch.setattr(Network, "elbo", Network.elbo)
    interruptions.not_finite_for(Network, lambda cells: dense(cells.counts)[:, 3] == 900)
    with pytest.raises(TrainingError, match=r"tl\.scvi: the loss was never finite.*1 cells: 'cell7'"):
        svp.tl.scvi(adata, max_epochs=2, batch_size=16)
    _assert_untouched(adata, before)


# ---- the stop button


@pytest.mark.parametrize("step", [2, N_STEPS + 2, 2 * N_STEPS], ids=["first epoch", "an epoch", "held-out cells"])
def test_the_stop_button_ends_training_with_the_best_so_far(inputs: Any, step: int):
    before = signal.getsignal(signal.SIGINT)
    network = small.network(inputs)
    interruptions.at_losses(network, step, do=interruptions.press_stop)
    _, outcome = trained(inputs, network)
    assert outcome.ended == "stopped"
    assert outcome.n_epochs == (step - 1) // N_STEPS + 1
    assert outcome.best_elbo == pytest.approx(outcome.history["elbo_validation"].max())
    assert _held_out_elbo(network, inputs) == outcome.best_elbo
    assert signal.getsignal(signal.SIGINT) is before


def test_the_stop_button_ends_the_epoch_at_once(inputs: Any):
    network, n_losses = small.network(inputs), []
    interruptions.at_losses(network, *range(1, 100), do=lambda: n_losses.append(network.training))
    interruptions.at_losses(network, 5, do=interruptions.press_stop)
    trained(inputs, network)
    assert n_losses == [True, True, True, False] + [True, False]  # the step it came in, and the held-out cells


def test_a_stopped_fit_writes_its_results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    adata = _adata()
    monkeypatch.setattr(Network, "elbo", Network.elbo)
    interruptions.at_losses(Network, 10, do=interruptions.press_stop)
    with svp.settings.override(progress=False):
        svp.tl.scvi(adata, max_epochs=50, batch_size=16)
    assert adata.uns["scvi"]["params"]["ended"] == "stopped"
    assert adata.uns["scvi"]["params"]["n_epochs"] < 50
    assert np.isfinite(adata.obsm["X_scvi"]).all()
    assert "stopped by you" in capsys.readouterr().err


def test_pressing_twice_ends_the_call_and_leaves_the_object_untouched(monkeypatch: pytest.MonkeyPatch, quiet: Any):
    adata = _adata()
    before, handler = adata.copy(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Network, "elbo", Network.elbo)
    interruptions.at_losses(Network, 6, 7, do=interruptions.press_stop)
    with pytest.raises(KeyboardInterrupt):
        svp.tl.scvi(adata, max_epochs=50, batch_size=16)
    _assert_untouched(adata, before)
    assert signal.getsignal(signal.SIGINT) is handler


# ---- the split


@pytest.mark.parametrize(("n_cells", "n_held_out"), [(100, 10), (19, 1), (9, 0), (2, 0), (3, 0)])
def test_a_tenth_is_held_out_where_cells_can_be_spared(n_cells: int, n_held_out: int):
    training, held_out = split(n_cells, 0.1, seed=0)
    assert len(held_out) == n_held_out
    assert sorted([*training, *held_out]) == list(range(n_cells))


def test_two_cells_are_always_left_to_train_on():
    training, _ = split(3, 0.9, seed=0)
    assert len(training) == 2


def test_the_split_follows_the_seed():
    assert np.array_equal(split(100, 0.1, seed=1)[1], split(100, 0.1, seed=1)[1])
    assert not np.array_equal(split(100, 0.1, seed=1)[1], split(100, 0.1, seed=2)[1])


def test_the_facts_of_a_plan_are_json_and_tell_its_rows_apart():
    plan = small.plan(N_CELLS)
    facts = plan.facts()
    assert facts == small.plan(N_CELLS, progress_bar="scvi").facts()
    other = dataclasses.replace(plan, validation_rows=plan.validation_rows[1:])
    assert other.facts()["rows"] != facts["rows"]


def _adata(counts: np.ndarray | None = None) -> ad.AnnData:
    adata = ad.AnnData(small.arrays(N_CELLS).counts if counts is None else csr_matrix(counts))
    adata.obs_names = [f"cell{i}" for i in range(N_CELLS)]
    return adata


def _assert_untouched(adata: ad.AnnData, before: ad.AnnData) -> None:
    assert not adata.obsm.keys()
    assert not adata.layers.keys()
    assert not adata.uns.keys()
    assert list(adata.obs.columns) == list(before.obs.columns)
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
