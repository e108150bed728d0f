"""The fake device finds what a CUDA device would stumble over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from scvi_pp._backend.streams import Cells
from tests.backend import small
from tests.cuda.fake_device import DEVICE, fake_device, moved
from tests.cuda.training import Training

OTHER_DEVICE = "found at least two devices"


def step(network: Any) -> None:
    """One training step on the fake device."""
    inputs = small.arrays()
    with fake_device():
        Training(moved(network), Cells(inputs, DEVICE)).epochs()._one(12)


def planted(monkeypatch: pytest.MonkeyPatch, fault: Any) -> Any:
    """A network whose latent space does something else besides."""
    network = small.network(small.arrays())
    latent = network.latent
    monkeypatch.setattr(network, "latent", lambda position: latent(fault(position)))
    return network


def test_a_network_without_a_fault_trains():
    step(small.network(small.arrays()))


def test_what_was_left_on_the_host_is_found(monkeypatch: pytest.MonkeyPatch):
    left = torch.ones(3)  # as an attribute that is no buffer, which `to` does not move
    with pytest.raises(RuntimeError, match=OTHER_DEVICE):
        step(planted(monkeypatch, lambda position: position * left))


def test_what_is_made_on_the_host_is_found(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RuntimeError, match=OTHER_DEVICE):
        step(planted(monkeypatch, lambda position: position + torch.randn(3)))


def test_what_comes_from_elsewhere_in_the_backward_pass_is_found(monkeypatch: pytest.MonkeyPatch):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, outer: Tensor) -> Tensor:
            return outer * torch.full((3,), 2.0)

    with pytest.raises(RuntimeError, match=OTHER_DEVICE):
        step(planted(monkeypatch, Doubled.apply))


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x * x.sum().item(),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x + len(x[x > 0]),
        lambda x: x + len(x.nonzero()),
        lambda x: x + x.detach().sum().tolist(),
    ],
    ids=["item", "if", "mask", "nonzero", "tolist"],
)
def test_a_value_that_is_read_is_found(reads: Any, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Exception, match="_local_scalar_dense|nonzero"):
        step(planted(monkeypatch, reads))


def test_a_number_of_the_host_in_adam_is_found():
    network = small.network(small.arrays())
    with fake_device():
        training = Training(moved(network), Cells(small.arrays(), DEVICE))
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        training.optimizer.step(torch.tensor(0.1, device=DEVICE))
        for part in training.optimizer.parts:
            for moments in part.state.values():
                moments["exp_avg"] = moments["exp_avg"].cpu()
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with pytest.raises((AssertionError, RuntimeError)):
            training.optimizer.step(torch.tensor(0.1, device=DEVICE))


def test_draws_and_blocks_are_as_large_as_on_any_device():
    with fake_device():
        drawn = torch.poisson(torch.rand(4, 3, device=DEVICE))
        assert (drawn.device, tuple(drawn.shape)) == (DEVICE, (4, 3))
        with pytest.raises(AssertionError, match="not on the host"):
            drawn.numpy()
        assert drawn.cpu().numpy().shape == (4, 3)


def test_outside_the_block_nothing_is_left_of_it():
    make = Tensor._make_subclass
    with pytest.raises(DynamicOutputShapeException), fake_device():
        torch.zeros(3, device=DEVICE).nonzero()
    assert Tensor._make_subclass is make
    assert torch.ones(2).numpy().tolist() == [1, 1]
