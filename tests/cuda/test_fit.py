"""A whole run by repeated steps: the ordinary one, on the CPU and on a device where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp import settings
from scvi_pp._backend import graph
from scvi_pp._backend.fit import Outcome, _Loop, fit
from scvi_pp._backend.graph import Epochs
from scvi_pp._backend.schedule import Schedule
from scvi_pp._backend.streams import Cells
from tests.backend import interruptions, small

needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def in_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another device does, on the CPU."""
    monkeypatch.setattr(
        _Loop,
        "_one_epoch_on_this_device",
        lambda self: Epochs(self._step, self.network.zero_grad, self.cells, len(self.training), self.n_steps).run,
    )


def trained(device: str = "cpu", **options: Any) -> tuple[Any, Outcome]:
    inputs, where = small.arrays(), torch.device(device)
    network = small.network(inputs, **options).to(where)
    return network, fit(network, Cells(inputs, where), small.plan(max_epochs=12))


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_a_run_in_epochs_is_the_ordinary_run_bit_for_bit(
    likelihood: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    """With the learning rates of a device, which are float32."""
    exact = Schedule.learning_rate_at
    monkeypatch.setattr(Schedule, "learning_rate_at", lambda self, there: float(np.float32(exact(self, there))))
    network, expected = trained(gene_likelihood=likelihood)
    request.getfixturevalue("in_epochs")
    same, found = trained(gene_likelihood=likelihood)
    for name, values in expected.history.items():
        np.testing.assert_array_equal(values, found.history[name])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])


@pytest.mark.usefixtures("in_epochs")
def test_a_setback_goes_back_and_on():
    """The moments of Adam are other tensors then."""
    inputs = small.arrays()
    network = small.network(inputs)
    interruptions.not_finite_at(network, 6)
    outcome = fit(network, small.cells(inputs), small.plan())
    assert outcome.ended == "budget"
    assert np.isfinite(outcome.history["elbo_train"]).all()


@needs_device
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_recorded_steps_are_the_steps(likelihood: str, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    with settings.override(verbosity=3):
        _, recorded = trained("cuda", gene_likelihood=likelihood)
    assert "cannot be recorded" not in capsys.readouterr().err
    monkeypatch.setattr(graph, "WARM_UP", 10**9)
    _, expected = trained("cuda", gene_likelihood=likelihood)
    for name, values in expected.history.items():  # the gradient of an embedding adds up in any order
        np.testing.assert_allclose(recorded.history[name], values, rtol=2e-3)


@needs_device
def test_a_device_trains_as_well_as_the_cpu():
    (_, ours), (_, theirs) = trained("cuda"), trained("cpu")
    assert ours.best_elbo == pytest.approx(theirs.best_elbo, rel=0.02)
