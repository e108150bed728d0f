"""A fit with machine code and several threads is the fit that it would be without, and keeps all its promises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scvi_pp as svp
from scvi_pp._backend import checkpoint, kernels
from scvi_pp._backend import fit as fitting
from scvi_pp._backend.crew import crew
from scvi_pp._backend.fit import Diverged, Outcome, fit
from scvi_pp._backend.query import Posterior
from tests.backend import interruptions, small

N_CELLS, N_GENES = 300, 60
N_STEPS = 4 + 1  # losses of an epoch: four minibatches of 64, and the held-out cells

pytestmark = pytest.mark.usefixtures("quiet")
every_crew = pytest.mark.parametrize("n_threads", [1, 2])
every_likelihood = pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson", "normal"])


@pytest.fixture(autouse=True)
def _every_fit_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """How to say how many processors there are; minibatches of 64 cells keep two threads busy."""
    return lambda n: monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n)


@pytest.fixture(scope="module")
def inputs() -> Any:
    return small.arrays(N_CELLS, N_GENES, n_levels=(3,), n_numbers=1)


def trained(inputs: Any, network: Any = None, *, shape: dict[str, Any] | None = None, **options: Any) -> Any:
    """The network and how it was trained."""
    network = small.network(inputs, n_hidden=16, **(shape or {})) if network is None else network
    plan = small.plan(N_CELLS, **{"max_epochs": 3, "batch_size": 64, **options})
    return network, fit(network, small.cells(inputs), plan, facts={"model": "scvi"})


def assert_same_bits(first: tuple[Any, Outcome], second: tuple[Any, Outcome]) -> None:
    for name, tensor in first[0].state_dict().items():
        assert torch.equal(tensor, second[0].state_dict()[name]), name
    assert first[1].history.keys() == second[1].history.keys()
    for name, values in first[1].history.items():
        np.testing.assert_array_equal(values, second[1].history[name])
    assert (first[1].best_epoch, first[1].best_elbo) == (second[1].best_epoch, second[1].best_elbo)


def assert_same_course(found: Outcome, expected: Outcome, rtol: float) -> None:
    assert found.history.keys() == expected.history.keys()
    for name, values in found.history.items():
        np.testing.assert_allclose(values, expected.history[name], rtol=rtol)


@every_crew
def test_a_step_has_the_machine_code_and_the_threads_that_it_should(
    inputs: Any, n_threads: int, threads: Callable[[int], None]
):
    threads(n_threads)
    network = small.network(inputs)
    seen = set()
    interruptions.at_losses(
        network, *range(1, 100), do=lambda: seen.add((crew().n, kernels.compiles(), torch.get_num_threads()))
    )
    trained(inputs, network, max_epochs=1)
    assert seen == {(n_threads, True, 1)}


@every_crew
@every_likelihood
def test_the_same_seed_gives_the_same_bits(
    inputs: Any, likelihood: str, n_threads: int, threads: Callable[[int], None]
):
    threads(n_threads)
    first, second = (trained(inputs, shape={"gene_likelihood": likelihood}) for _ in range(2))
    assert np.isfinite(first[1].best_elbo)
    assert_same_bits(first, second)


@every_crew
@pytest.mark.parametrize(
    ("likelihood", "dispersion"),
    [("zinb", "gene"), ("zinb", "gene-batch"), ("zinb", "gene-cell"), ("nb", "gene"), ("nb", "gene-cell")]
    + [("poisson", "gene"), ("normal", "gene")],
)
def test_the_history_is_that_of_the_analytic_kernels(
    inputs: Any, likelihood: str, dispersion: str, n_threads: int, threads: Callable[[int], None]
):
    shape = {"gene_likelihood": likelihood, "dispersion": dispersion}
    with kernels.use("analytic"):
        _, expected = trained(inputs, shape=shape)
    threads(n_threads)
    _, found = trained(inputs, shape=shape)
    assert_same_course(found, expected, 1e-3)


@pytest.mark.parametrize(
    "shape",
    [
        {"encode_covariates": True, "n_layers": 2},
        {"encode_covariates": True, "batch_representation": "embedding"},
        {"use_observed_lib_size": False, "latent_distribution": "ln"},
        {"use_batch_norm": "none", "use_layer_norm": "both", "dispersion": "gene-label"},
    ],
    ids=["covariates", "embedding", "latent library", "layer norm"],
)
def test_every_shape_of_network_goes_the_same_way_with_threads(
    inputs: Any, shape: dict[str, Any], threads: Callable[[int], None]
):
    with kernels.use("analytic"):
        _, expected = trained(inputs, shape=shape)
    threads(2)
    _, found = trained(inputs, shape=shape)
    assert_same_course(found, expected, 1e-3)


def test_a_size_factor_goes_the_same_way_with_threads(threads: Callable[[int], None]):
    inputs = small.arrays(N_CELLS, N_GENES, size_factor=True)
    with kernels.use("analytic"):
        _, expected = trained(inputs)
    threads(2)
    _, found = trained(inputs)
    assert_same_course(found, expected, 1e-3)


# ---- to continue


@pytest.mark.parametrize("killed_at", [N_STEPS + 2, 2 * N_STEPS, 3 * N_STEPS + 1])
@every_crew
def test_a_killed_run_continues_to_the_bit(
    inputs: Any,
    n_threads: int,
    killed_at: int,
    threads: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    threads(n_threads)
    path, network = tmp_path / "run.safetensors", small.network(inputs, n_hidden=16)
    interruptions.at_losses(network, killed_at, do=interruptions.kill)
    with pytest.raises(interruptions.Killed):
        trained(inputs, network, checkpoint=path, max_epochs=4)
    assert checkpoint.read(path)[1]["run"]["epoch"] == (killed_at - 1) // N_STEPS
    assert_same_bits(trained(inputs, checkpoint=path, max_epochs=4), trained(inputs, max_epochs=4))


def test_a_run_may_continue_with_another_number_of_threads(
    inputs: Any, threads: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    path, network = tmp_path / "run.safetensors", small.network(inputs, n_hidden=16)
    interruptions.at_losses(network, 2 * N_STEPS + 2, do=interruptions.kill)
    threads(2)
    with pytest.raises(interruptions.Killed):
        trained(inputs, network, checkpoint=path, max_epochs=4)
    threads(1)
    _, continued = trained(inputs, checkpoint=path, max_epochs=4)
    assert_same_course(continued, trained(inputs, max_epochs=4)[1], 1e-3)


# ---- what goes wrong


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "scvi_pp"}


@pytest.mark.parametrize("ending", ["budget", "stopped", "interrupted", "killed"])
def test_threads_end_with_the_run_however_it_ends(inputs: Any, ending: str, threads: Callable[[int], None]):
    threads(2)
    others, before, network = workers(), torch.get_num_threads(), small.network(inputs)
    if ending == "killed":
        interruptions.at_losses(network, 3, do=interruptions.kill)
        with pytest.raises(interruptions.Killed):
            trained(inputs, network)
    elif ending == "interrupted":
        interruptions.at_losses(network, 3, do=lambda: [interruptions.press_stop() for _ in range(2)])
        with pytest.raises(KeyboardInterrupt):
            trained(inputs, network)
    else:
        if ending == "stopped":
            interruptions.at_losses(network, 3, do=interruptions.press_stop)
        assert trained(inputs, network)[1].ended == ending
    for thread in workers() - others:
        thread.join(20)
    assert workers() <= others
    assert torch.get_num_threads() == before


@every_crew
def test_a_weight_that_is_nan_is_noticed_and_undone(
    inputs: Any, n_threads: int, threads: Callable[[int], None], capsys: pytest.CaptureFixture[str]
):
    threads(n_threads)
    for name in ("decoder.scale.weight", "decoder.dropout_logits.bias", "log_dispersion", "encoder.mean.weight"):
        network = small.network(inputs)
        weight = network.get_parameter(name)

        def spoil(weight: Any = weight) -> None:
            with torch.no_grad():
                weight.view(-1)[3] = torch.nan

        interruptions.at_losses(network, N_STEPS + 2, do=spoil)
        with svp.settings.override(verbosity=1):
            _, outcome = trained(inputs, network)
        assert "The loss was not finite in epoch 2" in capsys.readouterr().err, name
        assert (outcome.ended, outcome.n_epochs) == ("budget", 3)
        assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


@pytest.mark.parametrize("form", ["auto", "analytic", "reference"])
@every_likelihood
def test_the_cells_that_make_a_loss_nan_are_named(likelihood: str, form: str, threads: Callable[[int], None]):
    """By their numbers, which are no counts: they pass through the network and its last layer as they are."""
    threads(2)
    inputs = small.arrays(N_CELLS, N_GENES, n_numbers=1)
    inputs.numbers[[7, 150, 299], 0] = np.nan, np.inf, np.nan
    with kernels.use(form), pytest.raises(Diverged) as caught:
        trained(inputs, shape={"gene_likelihood": likelihood})
    assert sorted(caught.value.rows) == [7, 150, 299]


# ---- and then its cells are asked for


ANSWERS: dict[str, Callable[[Posterior], Any]] = {
    "latent mean": Posterior.latent_mean,
    "latent distribution": lambda posterior: np.stack(posterior.latent_distribution()),
    "latent samples": lambda posterior: posterior.latent_samples(2),
    "denoised": lambda posterior: _denoised(posterior, None, None),
    "denoised, some genes": lambda posterior: _denoised(posterior, np.array([9, 0, 4]), 2),
    "parameters": lambda posterior: np.stack(list(posterior.parameters(columns=None, n_samples=2).values())),
    "library size": Posterior.library_size,
    "elbo": lambda posterior: np.stack(list(posterior.elbo(2).values())),
    "marginal log-likelihood": lambda posterior: posterior.marginal_log_likelihood(5),
}


def _denoised(posterior: Posterior, columns: np.ndarray | None, n_samples: int | None) -> np.ndarray:
    out = np.full((N_CELLS, N_GENES if columns is None else len(columns)), np.nan, np.float32)
    options = {"columns": columns, "library_size": None, "batches": [0, 1], "n_samples": n_samples}
    return posterior.denoised(out, **options)


@pytest.fixture(scope="module")
def fitted(inputs: Any) -> tuple[Any, Any]:
    with svp.settings.override(verbosity=0):
        network, _ = trained(inputs)
    return network, small.cells(inputs)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_the_same_with_every_form_and_every_number_of_threads(
    fitted: tuple[Any, Any], answer: str, threads: Callable[[int], None]
):
    with kernels.use("reference"):
        expected = ANSWERS[answer](Posterior(*fitted))
    assert np.isfinite(expected).all()
    with kernels.use("analytic"):
        np.testing.assert_allclose(ANSWERS[answer](Posterior(*fitted)), expected, rtol=1e-5, atol=1e-5)
    for n_threads in (1, 3):
        threads(n_threads)
        for batch_size in (None, 13, 1000):
            found = ANSWERS[answer](Posterior(*fitted, batch_size=batch_size))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_same_question_has_the_same_answer_to_the_bit(
    fitted: tuple[Any, Any], answer: str, threads: Callable[[int], None]
):
    threads(3)
    first, second = (ANSWERS[answer](Posterior(*fitted, batch_size=40)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
