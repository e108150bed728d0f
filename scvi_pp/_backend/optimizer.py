"""Adam over all threads of a step: each has some of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from scvi_pp._backend.crew import crew
from scvi_pp._backend.scratch import give_back

if TYPE_CHECKING:
    from torch import Tensor, nn

# weights that one thread moves at a time; a multiple of what a vector holds, so that every weight rounds the same
PIECE = 1 << 20
SPARED = ("bias", "region_factors")  # by how their names end
Piece: TypeAlias = tuple[str, int]  # the name of a parameter, and which of its pieces


class SharedAdam:
    """Adam (Kingma and Ba 2015); its state is told by parameter, whatever the number of threads.

    The L2 penalty spares biases: they hold the mean expression of genes, and drawn towards zero those of rare genes come
    out too high. So do the factors of regions. On weights and dispersions it pays (docs/benchmarks.md).
    """

    def __init__(self, network: nn.Module, *, weight_decay: float) -> None:
        self.parameters = dict(network.named_parameters())
        devices = {parameter.device.type for parameter in self.parameters.values()}
        fused, capturable = devices <= {"cpu", "cuda"}, devices == {"cuda"}
        self.pieces = {name: _pieces(parameter) for name, parameter in self.parameters.items()}
        named = {(name, i): piece for name, pieces in self.pieces.items() for i, piece in enumerate(pieces)}
        self.parts = [
            torch.optim.Adam(self._options(group, weight_decay), fused=fused, capturable=capturable)
            for group in _split(named, crew().n)
        ]

    def _options(self, group: dict[Piece, Tensor], weight_decay: float) -> list[dict[str, Any]]:
        biases = [piece for (name, _), piece in group.items() if name.endswith(SPARED)]
        others = [piece for (name, _), piece in group.items() if not name.endswith(SPARED)]
        options = [{"params": others, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
        return [part for part in options if part["params"]]

    def step(self, learning_rate: float | Tensor) -> None:
        """Move every parameter against its gradient, and forget the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
        self._hand_out_gradients()

        def some(which: slice) -> None:
            for part in self.parts[which]:
                part.step()

        crew().share(len(self.parts), some)
        for name, parameter in self.parameters.items():
            for piece in self.pieces[name]:
                piece.grad = None
            if parameter.grad is not None:
                give_back(parameter.grad)
            parameter.grad = None

    def _hand_out_gradients(self) -> None:
        """Each in the memory layout of its parameter, and to each piece of a parameter a piece of it."""
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            pieces, parameter.grad = self.pieces[name], _laid_out_like(parameter, parameter.grad)
            if len(pieces) > 1:
                for piece, part in zip(pieces, _in_a_row(parameter.grad).split(PIECE), strict=True):
                    piece.grad = part

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, as "parameter.entry"."""
        known = {piece: entries for part in self.parts for piece, entries in part.state.items()}
        found: dict[str, Tensor] = {}
        for name, pieces in self.pieces.items():
            entries = [known.get(piece, {}) for piece in pieces]
            for entry in entries[0]:
                found[f"{name}.{entry}"] = _whole(self.parameters[name], [each[entry].detach() for each in entries])
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` told."""
        moments: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            parameter, entry = name.rsplit(".", 1)
            moments.setdefault(parameter, {})[entry] = value
        owner = {piece: part for part in self.parts for group in part.param_groups for piece in group["params"]}
        for part in self.parts:
            part.state.clear()
        for name, entries in moments.items():
            for i, piece in enumerate(self.pieces[name]):
                owner[piece].state[piece] = _of_piece(self.parameters[name], i, len(self.pieces[name]), entries)


def _pieces(parameter: nn.Parameter) -> list[Tensor]:
    """The parameter, or if it is too large for one thread its numbers in a row, in pieces that share its memory."""
    if parameter.device.type != "cpu" or parameter.numel() <= PIECE:
        return [parameter]
    return list(_in_a_row(parameter.detach()).split(PIECE))


def _in_a_row(tensor: Tensor) -> Tensor:
    """Its numbers as they follow each other in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """The value in the memory layout of a parameter."""
    return value if value.stride() == parameter.stride() else torch.empty_like(parameter).copy_(value)


def _whole(parameter: Tensor, parts: list[Tensor]) -> Tensor:
    """A copy of an entry of the state: shaped like the parameter if its pieces are, else that of the first."""
    if len(parts) == 1 or parts[0].ndim == 0:
        return parts[0].clone()
    return torch.cat(parts).as_strided(parameter.shape, parameter.stride())


def _of_piece(parameter: Tensor, number: int, n: int, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies for one of `n` pieces, in the memory layout of its parameter, which the fused step relies on."""
    found = {}
    for entry, value in entries.items():
        if value.shape != parameter.shape:
            found[entry] = value.clone()
        elif n == 1:
            found[entry] = torch.empty_like(parameter).copy_(value)
        else:
            found[entry] = _in_a_row(_laid_out_like(parameter, value)).split(PIECE)[number].clone()
    return found


def _split(pieces: dict[Piece, Tensor], n: int) -> list[dict[Piece, Tensor]]:
    """`n` groups of about the same number of weights: the largest first, always to the smallest group."""
    groups: list[dict[Piece, Tensor]] = [{} for _ in range(n)]
    sizes = [0] * n
    for name in sorted(pieces, key=lambda name: -pieces[name].numel()):
        smallest = sizes.index(min(sizes))
        groups[smallest][name] = pieces[name]
        sizes[smallest] += pieces[name].numel()
    return [group for group in groups if group]
