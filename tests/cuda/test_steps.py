"""A training step of every model: nothing in it waits for the host, and a CUDA graph could hold it.

What comes before the first step, `start_from`, reads values of the data once in a fit, and is not looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from scvi_pp._backend import kernels
from scvi_pp._backend.models import NAMES
from scvi_pp._backend.streams import Cells
from tests.cuda.every_model import CASES, Case, first_of_each, mapped, name_of
from tests.cuda.fake_device import DEVICE, fake_device, moved
from tests.cuda.training import Training, WithoutMoments
from tests.cuda.without_host import asks_nothing_of_the_host, only_on_the_meta_device

STEPS = [*CASES, Case("a query", "mapped", mapped)]
every_case = pytest.mark.parametrize("case", STEPS, ids=name_of)
every_model = pytest.mark.parametrize("case", first_of_each(STEPS), ids=name_of)


@pytest.fixture(autouse=True)
def _plain_operations() -> Iterator[None]:
    with kernels.use("analytic"):
        yield


def test_no_model_is_forgotten():
    assert {case.model for case in CASES} == set(NAMES)


@every_case
@pytest.mark.usefixtures("as_on_a_device")
def test_a_step_asks_nothing_of_the_host(case: Case):
    """Forward, backward and Adam, from the order of the rows to the sums."""
    epochs = Training(*case.make().on(torch.device("cpu"))).epochs()
    epochs._one(epochs.smaller)  # Adam makes its moments
    with asks_nothing_of_the_host():
        epochs._one(epochs.smaller)
        epochs._one(epochs.smaller + 1)


@every_model
@pytest.mark.usefixtures("as_on_a_device")
def test_a_step_needs_no_value_at_all(case: Case):
    """On the meta device tensors have shapes and no values: what reads one, or takes one from the host, fails."""
    epochs = WithoutMoments(*case.make().on(torch.device("meta"))).epochs()
    with only_on_the_meta_device():
        epochs._one(epochs.smaller)


@every_case
def test_a_step_stays_on_a_fake_cuda_device(case: Case):
    """Forward, backward and the fused Adam that a CUDA graph can hold."""
    network, inputs = case.make()
    with fake_device():
        epochs = Training(moved(network), Cells(inputs, DEVICE)).epochs()
        epochs._one(epochs.smaller)
