"""The one training loop.

Every epoch ends in a state that is kept whole: the best weights by what was held out, which training also falls back on when a
loss is not finite, and on request a file to continue from. What is drawn in an epoch depends on the seed and the
number of the epoch alone, so a continued run and an uninterrupted one are the same to the last bit on the CPU.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

with warnings.catch_warnings(action="ignore"):  # in a notebook without ipywidgets: the plain bar will do
    from tqdm.auto import tqdm

from scvi_pp import _logging
from scvi_pp._backend import checkpoint, kernels
from scvi_pp._backend.answering import Labelling
from scvi_pp._backend.crew import working_together
from scvi_pp._backend.device import Precision, matrix_products, private_random, reseed
from scvi_pp._backend.graph import Epochs, Taken
from scvi_pp._backend.objectives import N_SUMS
from scvi_pp._backend.optimizer import SharedAdam
from scvi_pp._backend.schedule import Schedule
from scvi_pp._backend.scratch import keeping_scratch
from scvi_pp._backend.stop import StopButton
from scvi_pp._backend.streams import in_random_order, n_minibatches
from scvi_pp._backend.weights import remember, snapshot
from scvi_pp._errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from scvi_pp._backend.objectives import Elbo
    from scvi_pp._backend.streams import Cells

MAX_SETBACKS = 6
CHECKPOINT_SECONDS = 10.0
INFERENCE_BATCH = 1024


class Trainable(Protocol):
    """What the loop asks of a network (an nn.Module)."""

    def elbo(self, cells: Any) -> Elbo: ...
    def start_from(self, cells: Cells, rows: Tensor) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How long, how fast, on which cells."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    kl_warmup: float
    kl_weight: float
    early_stopping: bool
    patience: int
    seed: int
    training_rows: np.ndarray = field(repr=False)
    validation_rows: np.ndarray = field(repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)  # of all cells; every minibatch has its share of each
    precision: Precision = "float32"
    checkpoint: Path | None = None
    progress_bar: str | None = None  # its label

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.learning_rate, self.kl_warmup, self.kl_weight)

    def facts(self) -> dict[str, Any]:
        """What makes this run this run, as JSON."""
        plan = asdict(self)
        for name in ("training_rows", "validation_rows", "groups", "checkpoint", "progress_bar"):
            del plan[name]
        return {**plan, "rows": checkpoint.digest((self.training_rows, self.validation_rows))}


@dataclass
class Run:
    """Where a run stands at the end of an epoch."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0  # counted from 1; 0 before the first
    best_elbo: float = -math.inf
    best_score: float = -math.inf  # the held-out ELBO, less what it costs to miss what is known of cells
    slowdown: float = 1.0  # factor on the learning rate, halved at each setback
    setbacks: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a run; the network holds its best weights."""

    history: dict[str, np.ndarray]
    n_epochs: int
    best_epoch: int
    best_elbo: float
    ended: str  # "budget", "converged", "stopped", "diverged"
    seconds: float


def fit(network: Any, cells: Cells, plan: Plan, *, facts: dict[str, Any] | None = None) -> Outcome:
    """Train the network in place; `facts` says what a checkpoint must have been made with to be continued."""
    started = time.perf_counter()
    compiled = kernels.use_for(len(plan.training_rows) * plan.max_epochs * cells.n_columns)
    on_cpu = cells.device.type == "cpu"  # another device shares a step by itself
    threads, products = working_together(plan.batch_size if on_cpu else 0), matrix_products(plan.precision)
    alone = private_random(cells.device, plan.seed)
    with compiled, threads, products, keeping_scratch(), alone, StopButton() as button:
        loop = _Loop(network, cells, plan, {**(facts or {}), **plan.facts()})
        loop.begin()
        ended = loop.run_all(button)
        loop.end()
    run = loop.run
    history = {name: np.asarray(values, dtype=np.float32) for name, values in run.history.items()}
    return Outcome(history, run.epoch, run.best_epoch, run.best_elbo, ended, time.perf_counter() - started)


class _Loop:
    def __init__(self, network: Any, cells: Cells, plan: Plan, facts: dict[str, Any]) -> None:
        self.network, self.cells, self.plan, self.facts = network, cells, plan, facts
        self.training = torch.tensor(plan.training_rows, device=cells.index_device)
        self.validation = torch.tensor(plan.validation_rows, device=cells.index_device)
        self.groups = None if plan.groups is None else torch.tensor(plan.groups[plan.training_rows])
        self.optimizer = SharedAdam(network, weight_decay=plan.weight_decay)
        self.n_steps = n_minibatches(len(plan.training_rows), plan.batch_size)  # of an epoch
        self.one_epoch = self._one_epoch_on_this_device()
        self.run = Run()
        self.saved_at = time.monotonic()

    # ---- the run

    def begin(self) -> None:
        path = self.plan.checkpoint
        if path is not None and path.exists():
            self._resume(path)
        else:
            self.network.start_from(self.cells, self.training)
            self.best = snapshot(self.network)

    def run_all(self, button: StopButton) -> str:
        bar = tqdm(
            total=self.plan.max_epochs,
            initial=self.run.epoch,
            desc=self.plan.progress_bar,
            unit="epoch",
            disable=self.plan.progress_bar is None,
            leave=False,
        )
        with bar:
            while self.run.epoch < self.plan.max_epochs:
                if self._has_converged():
                    return "converged"
                ended = self._one_epoch(button)
                if ended:
                    return ended
                bar.update(self.run.epoch - bar.n)
                bar.set_postfix(ELBO=f"{self.run.best_elbo:.1f}", refresh=False)
        return "budget"

    def end(self) -> None:
        """Take the best weights, and let go of the rest: this object is part of a cycle, which would keep it a while."""
        self.network.load_state_dict(self.best)
        self.network.eval()
        del self.best, self.optimizer, self.one_epoch

    def _one_epoch(self, button: StopButton) -> str:
        """Train once through the cells; the reason to end, or nothing."""
        reseed(self.cells.device, _epoch_seed(self.plan.seed, self.run.epoch))
        record = self._train(button)
        record |= self._validate()
        if not (all(map(math.isfinite, record.values())) and self._has_finite_weights()):
            return self._fall_back()
        self._accept(record)
        if button.pressed:
            return "stopped"
        self._save()
        return ""

    def _train(self, button: StopButton) -> dict[str, float]:
        self.network.train()
        schedule, n_steps = self.plan.schedule, self.n_steps
        first, in_all = self.run.epoch * n_steps, n_steps * self.plan.max_epochs
        progress = [step / in_all for step in range(first, first + n_steps)]
        kl_weights = [schedule.kl_weight_at(there) for there in progress]
        learning_rates = [schedule.learning_rate_at(there) * self.run.slowdown for there in progress]
        order = in_random_order(self.training, self.groups)
        taken = self.one_epoch(order, kl_weights, learning_rates, lambda: button.pressed)
        return {
            **self._means("train", taken.sums / taken.n_cells),
            "learning_rate": learning_rates[taken.n_steps - 1],
            "kl_weight": kl_weights[taken.n_steps - 1],
        }

    def _step(self, cells: Any, kl_weight: float | Tensor, learning_rate: float | Tensor) -> Tensor:
        """Nothing in here may wait for the device or depend on a value: a CUDA graph holds it."""
        elbo = self.network.elbo(cells)
        elbo.loss(kl_weight).backward()
        self.optimizer.step(learning_rate)
        sums: Tensor = elbo.sums()
        return sums

    def _one_epoch_on_this_device(self) -> Callable[..., Taken]:
        if self.cells.device.type == "cpu" or self.cells.come_from_host:
            return self._step_by_step
        return Epochs(self._step, self.network.zero_grad, self.cells, len(self.training), self.n_steps).run

    def _step_by_step(
        self, order: Tensor, kl_weights: Sequence[float], learning_rates: Sequence[float], stopped: Callable[[], bool]
    ) -> Taken:
        """An epoch whose minibatches the host prepares, the next one during a step."""
        sums, n_taken, n_seen = torch.zeros(N_SUMS, dtype=torch.float64, device=self.cells.device), 0, 0
        minibatches = torch.tensor_split(order, self.n_steps)
        for cells in self.cells.minibatches(minibatches):
            sums += self._step(cells, kl_weights[n_taken], learning_rates[n_taken])
            n_seen += len(minibatches[n_taken])
            n_taken += 1
            if stopped():
                break
        return Taken(sums, n_taken, n_seen)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The held-out ELBO, with the same draws after every epoch."""
        if not len(self.validation):
            return {}
        self.network.eval()
        reseed(self.cells.device, _epoch_seed(self.plan.seed, -1))
        sums = torch.zeros(N_SUMS, dtype=torch.float64, device=self.cells.device)
        for _, cells in self.cells.blocks(INFERENCE_BATCH, self.validation):
            sums += self.network.elbo(cells).sums()
        return self._means("validation", sums / len(self.validation))

    def _means(self, of: str, means: Tensor) -> dict[str, float]:
        bound, reconstruction, supervision = means.tolist()
        record = {f"elbo_{of}": bound, f"reconstruction_{of}": reconstruction}
        return record | ({f"supervision_{of}": supervision} if isinstance(self.network, Labelling) else {})

    def _accept(self, record: dict[str, float]) -> None:
        """The epoch counts: remember its numbers, and its weights if they are the best."""
        for name, value in record.items():
            self.run.history.setdefault(name, []).append(value)
        self.run.epoch += 1
        held_out = record.get("elbo_validation")
        score = math.inf if held_out is None else held_out - record.get("supervision_validation", 0.0)
        if held_out is None or score > self.run.best_score:  # without held-out cells the last epoch is the best
            self.run.best_score, self.run.best_epoch = score, self.run.epoch
            self.run.best_elbo = record["elbo_train"] if held_out is None else held_out
            remember(self.network, self.best)

    def _has_finite_weights(self) -> bool:
        """Whether the last step, which no loss of this epoch has seen, was sound too."""
        sums = [tensor.sum().double() for tensor in self.network.state_dict().values()]
        return bool(torch.isfinite(torch.stack(sums)).all())

    def _has_converged(self) -> bool:
        """Nothing is waited for while the KL term still grows: what is best then is not what training is after."""
        warm = math.ceil(self.plan.kl_warmup * self.plan.max_epochs)
        waited = self.run.epoch - max(self.run.best_epoch, warm)
        return self.plan.early_stopping and len(self.validation) > 0 and waited >= self.plan.patience

    # ---- setbacks

    def _fall_back(self) -> str:
        """Go on from the best weights so far with half the learning rate; too often, and they must do."""
        self._restore(self.best, {})
        self.run.setbacks += 1
        self.run.slowdown /= 2
        if self.run.setbacks > MAX_SETBACKS:
            if self.run.best_epoch:
                _logging.warning(
                    f"The loss was not finite {self.run.setbacks} times, at ever smaller learning rates. "
                    f"Training ends with the weights of epoch {self.run.best_epoch}."
                )
                return "diverged"
            raise Diverged(self._offending_rows())
        _logging.warning(
            f"The loss was not finite in epoch {self.run.epoch + 1}: back to the best weights so far, "
            f"learning rate {self.plan.learning_rate * self.run.slowdown:.2g}."
        )
        return ""

    @torch.no_grad()
    def _offending_rows(self) -> np.ndarray:
        self.network.eval()
        rows = torch.cat([self.training, self.validation])
        bounds = [self.network.elbo(cells).bound for _, cells in self.cells.blocks(INFERENCE_BATCH, rows)]
        bad: np.ndarray = rows[~torch.isfinite(torch.cat(bounds))].cpu().numpy()
        return bad

    # ---- states

    def _restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        self.network.load_state_dict(weights)
        self.optimizer.restore(moments)
        self.one_epoch = self._one_epoch_on_this_device()  # recordings would write to the moments of before

    def _save(self) -> None:
        path = self.plan.checkpoint
        is_last = self.run.epoch == self.plan.max_epochs or self._has_converged()
        if path is None or not (is_last or time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS):
            return
        state = {
            **_under("network.", self.network.state_dict()),
            **_under("optimizer.", self.optimizer.state()),
            **_under("best.", self.best),
        }
        checkpoint.write(path, state, {"run": asdict(self.run), "call": self.facts})
        self.saved_at = time.monotonic()

    def _resume(self, path: Path) -> None:
        tensors, facts = checkpoint.read(path)
        checkpoint.check_same_run(path, facts["call"], self.facts)
        tensors = {name: tensor.to(self.cells.device) for name, tensor in tensors.items()}
        self._restore(dict(_within(tensors, "network.")), dict(_within(tensors, "optimizer.")))
        self.best = dict(_within(tensors, "best."))
        self.run = Run(**facts["run"])
        _logging.info(f"Continuing from {path} after epoch {self.run.epoch} of {self.plan.max_epochs}.")


class Diverged(TrainingError):
    """No finite loss could be reached; `rows` are the cells whose bound is not finite."""

    def __init__(self, rows: np.ndarray) -> None:
        super().__init__("The loss was never finite.")
        self.rows = rows


def split(n_cells: int, validation_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows, drawn at random; a data set too small to spare cells is trained on whole."""
    n_validation = min(int(validation_size * n_cells), n_cells - 2)
    order = np.random.default_rng(seed).permutation(n_cells)
    held_out = order[: max(n_validation, 0)]
    return np.sort(order[len(held_out) :]), np.sort(held_out)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _within(state: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((name[len(prefix) :], tensor) for name, tensor in state.items() if name.startswith(prefix))


def _epoch_seed(seed: int, epoch: int) -> int:
    """One stream for each epoch, none shared by neighbouring seeds."""
    return int(np.random.SeedSequence([seed, epoch + 1]).generate_state(1, np.uint64)[0] >> 1)
