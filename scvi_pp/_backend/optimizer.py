"""Adam over all threads of a step: each has some of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scvi_pp._backend.crew import crew

if TYPE_CHECKING:
    from torch import Tensor, nn


class SharedAdam:
    """Adam (Kingma and Ba 2015); its state is told by parameter, whatever the number of threads.

    The L2 penalty spares biases: they hold the mean expression of genes, and drawn towards zero those of rare genes come
    out too high. On weights and dispersions it pays (docs/benchmarks.md).
    """

    def __init__(self, network: nn.Module, *, weight_decay: float) -> None:
        self.parameters = dict(network.named_parameters())
        devices = {parameter.device.type for parameter in self.parameters.values()}
        fused, capturable = devices <= {"cpu", "cuda"}, devices == {"cuda"}
        self.groups = _split(self.parameters, crew().n)
        self.parts = [
            torch.optim.Adam(self._options(group, weight_decay), fused=fused, capturable=capturable)
            for group in self.groups
        ]

    def _options(self, group: list[str], weight_decay: float) -> list[dict[str, Any]]:
        biases = [self.parameters[name] for name in group if name.endswith("bias")]
        others = [self.parameters[name] for name in group if not name.endswith("bias")]
        options = [{"params": others, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
        return [part for part in options if part["params"]]

    def step(self, learning_rate: float | Tensor) -> None:
        """Move every parameter against its gradient, and forget the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate

        def some(which: slice) -> None:
            for part in self.parts[which]:
                part.step()

        crew().share(len(self.parts), some)
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, as "parameter.entry"."""
        found: dict[str, Tensor] = {}
        for group, part in zip(self.groups, self.parts, strict=True):
            for name in group:
                entries = part.state[self.parameters[name]]
                found |= {f"{name}.{entry}": value.detach().clone() for entry, value in entries.items()}
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` told."""
        moments: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            parameter, entry = name.rsplit(".", 1)
            moments.setdefault(parameter, {})[entry] = value
        for group, part in zip(self.groups, self.parts, strict=True):
            part.state.clear()
            for name in group:
                if name in moments:
                    part.state[self.parameters[name]] = _like(self.parameters[name], moments[name])


def _split(parameters: dict[str, nn.Parameter], n: int) -> list[list[str]]:
    """Names in `n` groups of about the same number of weights: the largest first, always to the smallest group."""
    groups: list[list[str]] = [[] for _ in range(n)]
    sizes = [0] * n
    for name in sorted(parameters, key=lambda name: -parameters[name].numel()):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(name)
        sizes[smallest] += parameters[name].numel()
    return [group for group in groups if group]


def _like(parameter: Tensor, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, those of a moment in the memory layout of its parameter, which the fused step relies on."""
    return {
        name: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
        for name, value in entries.items()
    }
