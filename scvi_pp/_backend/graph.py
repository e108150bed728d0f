"""Training steps that a CUDA device repeats by itself: a step is recorded once, then the host only says "again".

A step of scVI is about a hundred small operations. Each takes the device a microsecond or two and the host ten to
launch, so launched one by one the device mostly waits. A CUDA graph launches them all at once. What it asks in return:
nothing in a step may wait for the device or have a shape that depends on a value, and whatever changes from step to
step is read from tensors that stay where they are. Here those are the order of the rows, the schedule, and how far
the epoch has come. The same function of the same tensors runs on the CPU, one operation after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from scvi_pp import _logging
from scvi_pp._backend.objectives import N_SUMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi_pp._backend.streams import Cells

# steps taken as they are before one is recorded: at first use kernels are compiled, libraries reserve memory, Adam
# makes its moments
WARM_UP = 3
TOGETHER = 8  # steps in one recording: the host is then needed every half millisecond

# a minibatch, the weight of the KL term and the learning rate -> sums of what the history records, float64 (N_SUMS,)
Step = Callable[[Any, Tensor, Tensor], Tensor]


class Taken(NamedTuple):
    """What was done of an epoch: all of it, unless it was stopped."""

    sums: Tensor
    n_steps: int
    n_cells: int


class Recorder(Protocol):
    """What can take a step down and repeat it."""

    def aside(self, step: Callable[[], None]) -> None:
        """Take the step as it is, where it will be recorded."""

    def record(self, step: Callable[[], None], n: int) -> Callable[[], None]:
        """Take nothing yet; what takes `n` such steps whenever it is called."""


class CudaRecorder:
    """CUDA graphs that share their memory: one runs after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.memory = torch.cuda.graph_pool_handle()

    def aside(self, step: Callable[[], None]) -> None:
        """On the stream of the recordings, whose libraries then have what they need."""
        usual = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            step()
        usual.wait_stream(self.stream)

    def record(self, step: Callable[[], None], n: int) -> Callable[[], None]:
        """A graph of `n` steps."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            before = generator.clone_state()
            try:
                # the stream is chosen out here as well: after a failure `graph` does not put the usual one back
                with torch.cuda.stream(self.stream), self._recording(graph):
                    for _ in range(n):
                        step()
            except BaseException:
                generator.graphsafe_set_state(before)  # it would go on as if it were being recorded
                raise
        replay: Callable[[], None] = graph.replay
        return replay

    def _recording(self, graph: torch.cuda.CUDAGraph) -> torch.cuda.graph:
        # other threads, such as that of a progress bar, may do on the device what they like
        return torch.cuda.graph(graph, pool=self.memory, stream=self.stream, capture_error_mode="thread_local")


class Repeated:
    """A step that takes no arguments: with a recorder, recorded after a few times; taken as it is without."""

    def __init__(self, step: Callable[[], None], recorder: Recorder | None, clear: Callable[[], None]) -> None:
        self.step, self.recorder, self.clear = step, recorder, clear
        self._n_to_warm_up = WARM_UP
        self._recordings: dict[int, Callable[[], None]] = {}  # by how many steps they are

    def run(self, n: int, stopped: Callable[[], bool]) -> int:
        """Take `n` steps; how many, which is fewer if stopped, but one at least."""
        n_done = 0
        while n_done < n:
            n_done += self._some(n - n_done)
            if stopped():
                break
        return n_done

    def _some(self, most: int) -> int:
        """Take one step, or several at once; how many."""
        if self.recorder is not None and self._n_to_warm_up:
            self._n_to_warm_up -= 1
            self.recorder.aside(self.step)
            return 1
        n = TOGETHER if self.recorder is not None and most >= TOGETHER else 1
        if self.recorder is not None and n not in self._recordings:
            self._record(self.recorder, n)
        if self.recorder is None:
            self.step()
            return 1
        self._recordings[n]()
        return n

    def _record(self, recorder: Recorder, n: int) -> None:
        """Or give up recording: the steps are the same, launched one operation at a time."""
        try:
            self._recordings[n] = recorder.record(self.step, n)
        except Exception as error:  # noqa: BLE001 - whatever the operations of a step may raise
            cause = error.__context__ or error  # an error inside a recording ends in a second one, that it is not whole
            reason = str(cause).strip().splitlines() or [type(cause).__name__]
            _logging.debug(f"Training steps cannot be recorded here, each is launched anew: {reason[0]}")
            self.clear()
            self.recorder = None
            self._recordings.clear()


class Epochs:
    """Epochs of `n_steps` steps over `n_rows` rows; `clear` forgets the gradients of a step that broke off."""

    def __init__(self, step: Step, clear: Callable[[], None], cells: Cells, n_rows: int, n_steps: int) -> None:
        self.take, self.cells, device = step, cells, cells.device
        self.order = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.kl_weights, self.learning_rates = torch.zeros(2, n_steps, device=device)
        self.sums = torch.zeros(N_SUMS, dtype=torch.float64, device=device)
        self.next_row, self.n_done = torch.zeros(2, 1, dtype=torch.int64, device=device)
        self.smaller, n_larger = divmod(n_rows, n_steps)
        self.offsets = torch.arange(self.smaller + 1, device=device)
        recorder = CudaRecorder(device) if device.type == "cuda" else None
        self.parts = [  # minibatches differ in size by one at most, the larger ones first
            (n, Repeated(partial(self._one, size), recorder, clear))
            for size, n in ((self.smaller + 1, n_larger), (self.smaller, n_steps - n_larger))
        ]

    def run(
        self,
        order: Tensor,
        kl_weights: Sequence[float],
        learning_rates: Sequence[float],
        stopped: Callable[[], bool],
    ) -> Taken:
        """One epoch through `order`, (n_rows,)."""
        self.order.copy_(order)
        self.kl_weights.copy_(torch.tensor(kl_weights))
        self.learning_rates.copy_(torch.tensor(learning_rates))
        for tensor in (self.sums, self.next_row, self.n_done):
            tensor.zero_()
        n_larger, n_smaller = (repeated.run(n, stopped) for n, repeated in self.parts)
        return Taken(self.sums, n_larger + n_smaller, (n_larger + n_smaller) * self.smaller + n_larger)

    def _one(self, n_rows: int) -> None:
        """The next step, on the next `n_rows` rows."""
        index = self.order.index_select(0, self.next_row + self.offsets[:n_rows])
        kl_weight, learning_rate = (
            table.index_select(0, self.n_done)[0] for table in (self.kl_weights, self.learning_rates)
        )
        self.sums += self.take(self.cells.minibatch(index), kl_weight, learning_rate)
        self.next_row += n_rows
        self.n_done += 1
