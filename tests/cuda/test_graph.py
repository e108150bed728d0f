"""Steps that read all that changes from tensors: the same run as step by step, recorded or not, on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scvi_pp import settings
from scvi_pp._backend import kernels, streams
from scvi_pp._backend.graph import TOGETHER, WARM_UP, Epochs, Repeated
from scvi_pp._backend.kernels.gather_rows.device import tile
from scvi_pp._backend.objectives import N_SUMS
from scvi_pp._backend.optimizer import SharedAdam
from tests.backend import small
from tests.cuda.test_likelihoods import KERNELS, ON_DEVICE
from tests.cuda.without_host import asks_nothing_of_the_host

N_GENES = 20
N_ROWS, N_STEPS = 50, 4  # minibatches of 13, 13, 12 and 12
KL_WEIGHTS, LEARNING_RATES = np.linspace(0, 1, N_STEPS), np.linspace(1e-3, 5e-3, N_STEPS)
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


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and likelihoods in the forms for a device, wherever they are."""
    monkeypatch.setattr(streams.Counts, "rows", lambda self, index: tile(self.packed, index, N_GENES))
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(kernel.analytic, "log_likelihood", ON_DEVICE[name].log_likelihood)


class Training:
    """A network with its optimizer, and how it takes a step."""

    def __init__(self, **options: Any) -> None:
        self.inputs = small.arrays(N_ROWS, N_GENES, n_levels=(3,), n_numbers=1)
        self.network, self.cells = small.network(self.inputs, **options), small.cells(self.inputs)
        self.network.train()
        self.optimizer = SharedAdam(self.network, weight_decay=1e-4)

    def step(self, cells: Any, kl_weight: float | Tensor, learning_rate: float | Tensor) -> Tensor:
        elbo = self.network.elbo(cells)
        elbo.loss(kl_weight).backward()
        self.optimizer.step(learning_rate)
        return elbo.sums()

    def epochs(self) -> Epochs:
        return Epochs(self.step, self.network.zero_grad, self.cells, N_ROWS, N_STEPS)

    def one_by_one(self, order: Tensor, learning_rates: list[float]) -> Tensor:
        """An epoch as it is written down in a book."""
        sums = torch.zeros(N_SUMS, dtype=torch.float64)
        for index, weight, rate in zip(order.tensor_split(N_STEPS), KL_WEIGHTS, learning_rates, strict=True):
            sums += self.step(self.cells.minibatch(index), float(weight), rate)
        return sums


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
    first, second = Training(**options), Training(**options)
    sums = run(repeated(first.epochs()))
    expected = run(partial(second.one_by_one, learning_rates=ROUNDED))
    assert all(torch.equal(*pair) for pair in zip(sums, expected, strict=True))
    assert_same(first, second)


@every_model
def test_epochs_are_the_ordinary_loop_but_for_the_rounding_of_learning_rates(options: dict[str, Any]):
    first, second = Training(**options), Training(**options)
    sums = run(repeated(first.epochs()))
    expected = run(partial(second.one_by_one, learning_rates=LEARNING_RATES.tolist()))
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=0)


@every_model
@pytest.mark.usefixtures("as_on_a_device")
def test_a_step_asks_nothing_of_the_host(options: dict[str, Any]):
    """Forward, backward and Adam, from the order of the rows to the sums."""
    training = Training(**options)
    epochs = training.epochs()
    epochs._one(13)  # Adam makes its moments
    with asks_nothing_of_the_host():
        epochs._one(13)
        epochs._one(12)


@every_model
def test_the_forms_for_a_device_train_the_same_network(options: dict[str, Any], request: pytest.FixtureRequest):
    expected = run(partial(Training(**options).one_by_one, learning_rates=ROUNDED))
    request.getfixturevalue("as_on_a_device")
    torch.testing.assert_close(run(repeated(Training(**options).epochs())), expected, rtol=5e-5, atol=0)


class OnlyOnDevice(TorchDispatchMode):
    """Fails at an operation that also takes or gives a tensor of the host: on a device, a copy that waits."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, Tensor) or leaf.device.type == "meta", f"{function} has a tensor of the host"
        return result


@every_model
@pytest.mark.usefixtures("as_on_a_device")
def test_a_step_needs_no_value_at_all(options: dict[str, Any]):
    """On the meta device tensors have shapes and no values: what reads one, or takes one from the host, fails."""
    inputs = small.arrays(N_ROWS, N_GENES, n_levels=(3,), n_numbers=1)
    device = torch.device("meta")
    network, cells = small.network(inputs, **options).to(device), streams.Cells(inputs, device)

    def step(minibatch: Any, kl_weight: Tensor, learning_rate: Tensor) -> Tensor:
        elbo = network.elbo(minibatch)
        elbo.loss(kl_weight).backward()
        for parameter in network.parameters():
            parameter.data -= learning_rate * parameter.grad
        return elbo.sums()

    epochs = Epochs(step, network.zero_grad, cells, N_ROWS, N_STEPS)
    with OnlyOnDevice():
        epochs._one(13)


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
    first, second = Training(), Training()
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
    training = Training()
    taken = training.epochs().run(torch.arange(N_ROWS), KL_WEIGHTS.tolist(), ROUNDED, lambda: True)
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
