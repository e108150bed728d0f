"""Steps that read all that changes from tensors: the same run as step by step, recorded or not, on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scvi_pp import settings
from scvi_pp._backend import kernels, streams
from scvi_pp._backend.graph import TOGETHER, WARM_UP, Epochs, Repeated
from scvi_pp._backend.objectives import N_SUMS
from tests.backend import small
from tests.cuda.training import KL_WEIGHTS, LEARNING_RATES, N_STEPS, Training

N_GENES = 20
N_ROWS = 50  # minibatches of 13, 13, 12 and 12
ROUNDED = LEARNING_RATES.astype(np.float32).tolist()  # as a device has them
OPTIONS = [
    {},
    {"gene_likelihood": "nb", "dispersion": "gene-cell"},
    {"gene_likelihood": "poisson", "use_observed_lib_size": False},
    {"dispersion": "gene-batch", "encode_covariates": True},
]
every_model = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))


@pytest.fixture(autouse=True)
def _plain_operations() -> Iterator[None]:
    with kernels.use("analytic"):
        yield


def training(**options: Any) -> Training:
    """Of a small scVI."""
    inputs = small.arrays(N_ROWS, N_GENES, n_levels=(3,), n_numbers=1)
    return Training(small.network(inputs, **options), small.cells(inputs))


def run(one_epoch: Callable[[Tensor], Tensor], n: int = 3) -> list[Tensor]:
    """The sums of some epochs, whatever the state of the world before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [one_epoch(torch.randperm(N_ROWS)).clone() for _ in range(n)]


def repeated(epochs: Epochs) -> Callable[[Tensor], Tensor]:
    def one_epoch(order: Tensor) -> Tensor:
        taken = epochs.run(order, KL_WEIGHTS.tolist(), LEARNING_RATES.tolist(), lambda: False)
        assert (taken.n_steps, taken.n_cells) == (N_STEPS, N_ROWS)
        return taken.sums

    return one_epoch


def assert_same(first: Training, second: Training) -> None:
    """To the bit. What rounds differently agrees in its sums alone: a bias before batch normalisation has no gradient
    but rounding, which Adam takes for one."""
    ours, others = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(tensor, others[name]) for name, tensor in ours.items())


@every_model
def test_epochs_are_the_ordinary_loop_bit_for_bit(options: dict[str, Any]):
    """With the learning rates of a device, which are float32."""
    first, second = training(**options), training(**options)
    sums = run(repeated(first.epochs()))
    expected = run(partial(second.one_by_one, learning_rates=ROUNDED))
    assert all(torch.equal(*pair) for pair in zip(sums, expected, strict=True))
    assert_same(first, second)


@every_model
def test_epochs_are_the_ordinary_loop_but_for_the_rounding_of_learning_rates(options: dict[str, Any]):
    first, second = training(**options), training(**options)
    sums = run(repeated(first.epochs()))
    expected = run(partial(second.one_by_one, learning_rates=LEARNING_RATES.tolist()))
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=0)


@every_model
def test_the_forms_for_a_device_train_the_same_network(options: dict[str, Any], request: pytest.FixtureRequest):
    expected = run(partial(training(**options).one_by_one, learning_rates=ROUNDED))
    request.getfixturevalue("as_on_a_device")
    torch.testing.assert_close(run(repeated(training(**options).epochs())), expected, rtol=5e-5, atol=0)


# ---- recordings


class Notebook:
    """A recorder that writes down what it is told and repeats it; `fails` is what it raises instead."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails, self.aside_taken, self.replayed = fails, 0, []

    def aside(self, step: Callable[[], None]) -> None:
        self.aside_taken += 1
        step()

    def record(self, step: Callable[[], None], n: int) -> Callable[[], None]:
        if self.fails is not None:
            raise self.fails
        return lambda: self.replayed.append(n) or [step() for _ in range(n)]


@pytest.mark.parametrize("n", [1, WARM_UP, WARM_UP + 1, WARM_UP + TOGETHER, WARM_UP + 3 * TOGETHER + 2])
def test_every_step_is_taken_once_in_as_few_recordings_as_there_can_be(n: int):
    notebook, taken = Notebook(), []
    steps = Repeated(lambda: taken.append(1), notebook, lambda: None)
    assert steps.run(n, lambda: False) == len(taken) == n
    assert notebook.aside_taken == min(n, WARM_UP)
    together, alone = divmod(max(n - WARM_UP, 0), TOGETHER)
    assert notebook.replayed == [TOGETHER] * together + [1] * alone
    assert steps.run(TOGETHER, lambda: False) == len(taken) - n == TOGETHER  # warm for good


def test_recorded_epochs_are_the_ordinary_loop():
    first, second = training(), training()
    epochs, notebooks = first.epochs(), [Notebook(), Notebook()]
    for (_, part), notebook in zip(epochs.parts, notebooks, strict=True):
        part.recorder = notebook
    sums = run(repeated(epochs), n=8)
    assert all(notebook.replayed for notebook in notebooks)
    assert all(map(torch.equal, sums, run(partial(second.one_by_one, learning_rates=ROUNDED), n=8)))
    assert_same(first, second)


def test_what_cannot_be_recorded_is_taken_as_it_is_and_one_line_says_so(capsys: pytest.CaptureFixture[str]):
    taken, cleared = [], []
    broken = Notebook(RuntimeError("operation not permitted when stream is capturing\nmore"))
    steps = Repeated(lambda: taken.append(1), broken, lambda: cleared.append(1))
    with settings.override(verbosity=3):
        assert [steps.run(20, lambda: False) for _ in range(2)] == [20, 20]
    assert (len(taken), len(cleared)) == (40, 1)
    said = capsys.readouterr().err
    assert said.count("operation not permitted") == said.count("\n") == 1


def test_a_second_interrupt_is_not_swallowed():
    class Interrupted(Notebook):
        def record(self, step: Callable[[], None], n: int) -> Callable[[], None]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Repeated(lambda: None, Interrupted(), lambda: None).run(WARM_UP + 1, lambda: False)


def test_the_stop_button_ends_an_epoch_after_the_step():
    """One more may be taken, of the smaller minibatches, never none."""
    taken = training().epochs().run(torch.arange(N_ROWS), KL_WEIGHTS.tolist(), ROUNDED, lambda: True)
    assert (taken.n_steps, taken.n_cells) == (2, 13 + 12)
    assert torch.isfinite(taken.sums).all()


@pytest.mark.parametrize(("n_rows", "n_steps"), [(48, 4), (50, 4), (2, 1), (3, 1), (7, 3)])
def test_an_epoch_has_every_row_once(n_rows: int, n_steps: int):
    cells, seen = small.cells(small.arrays(n_rows)), []

    def step(minibatch: Any, *_: Tensor) -> Tensor:
        seen.append(minibatch.labels)
        return torch.zeros(N_SUMS)

    field = cells.shape._fields.index("labels")
    cells.fields[field] = streams.Dense(torch.arange(n_rows))
    order = torch.randperm(n_rows)
    taken = Epochs(step, lambda: None, cells, n_rows, n_steps).run(order, [0.0] * n_steps, [0.0] * n_steps, bool)
    assert torch.equal(torch.cat(seen), order)
    assert [len(part) for part in seen] == [len(part) for part in order.tensor_split(n_steps)]
    assert (taken.n_steps, taken.n_cells) == (n_steps, n_rows)
