"""New batches and categories in a fitted network, while what it knows stays as it is (Lotfollahi et al. 2022, scArches).

A fitted network is copied into a larger one, whose tables have more rows: one for each level that was added. The rows that
were known are no parameters there, so that no optimiser can move them by a bit; the new ones begin at their mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scvi_pp._backend.adversary import Adversary
from scvi_pp._backend.layers import ConditionalLinear, FullyConnected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvi_pp._backend.objectives import Elbo
    from scvi_pp._backend.streams import Cells

# what moves while a query is mapped: the rows of new levels; with them the first layer of every part; everything
Unfrozen = Literal["new", "inputs", "all"]
Tables: TypeAlias = dict[tuple[str, str], int]


@runtime_checkable
class LearnsFromBatches(Protocol):
    """A network that takes more from the cells of a batch than a fit learns, such as the prior of their library size."""

    def start_batches_from(self, cells: Cells, first: int) -> None: ...


class KnownRows(nn.Module):
    """A table whose first rows are fixed: what is learned are those behind them."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known.detach().clone())

    def forward(self, new: Tensor) -> Tensor:
        """new (rows, ...) -> (known + new rows, ...)."""
        return torch.cat([self.get_buffer("known"), new])

    def right_inverse(self, table: Tensor) -> Tensor:
        """The rows that are learned."""
        return table[len(self.get_buffer("known")) :].contiguous()


class Mapping(nn.Module):
    """A grown network while the cells of a query are mapped onto it."""

    def __init__(self, network: nn.Module, n_known: Tables, n_batches: int, how: Unfrozen) -> None:
        super().__init__()
        self.network, self.n_known, self.n_batches, self.how = network, n_known, n_batches, how
        if how == "all":
            return
        first = set(_first_layers(network)) if how == "inputs" else set()
        for parameter in network.parameters():
            parameter.requires_grad_(parameter in first)
        for (place, name), n in n_known.items():
            module = network.get_submodule(place)
            known = module.get_parameter(name).detach()[:n]
            parametrize.register_parametrization(module, name, KnownRows(known))
            module.get_parameter(f"parametrizations.{name}.original").requires_grad_(True)

    def train(self, mode: bool = True) -> Mapping:
        """Batch normalisation and dropout stay as they are when the model is asked, unless all of it is trained."""
        super().train(mode)
        if self.how != "all":
            self.network.eval()
        return self

    def elbo(self, cells: Any) -> Elbo:
        """The bound of each cell."""
        bound: Elbo = self.network.elbo(cells)  # type: ignore[operator]
        return bound

    def start_from(self, cells: Cells, rows: Tensor | None) -> None:
        """Begin where the fit ended, with what new batches say by themselves."""
        if isinstance(self.network, LearnsFromBatches):
            self.network.start_batches_from(cells, self.n_batches)

    def finished(self) -> nn.Module:
        """The network as any other, with whole tables."""
        if self.how != "all":
            for place, name in self.n_known:
                parametrize.remove_parametrizations(self.network.get_submodule(place), name)
        return self.network.requires_grad_(True)


def mapping(fitted: Any, grown: nn.Module, how: Unfrozen) -> Mapping:
    """A fitted network inside one with more levels, ready for the cells of a query."""
    return Mapping(grown, graft(fitted, grown), fitted.hyperparameters.n_batches, how)


@torch.no_grad()
def graft(fitted: nn.Module, grown: nn.Module, place: str = "") -> Tables:
    """Copy a fitted network into one with more levels: the tables that have new rows, and how many rows were known.

    A table is named by the module that holds it and its own name there. What the fitted network has not is left as it
    was made, and so is an adversary, which has to see all batches to tell them apart.
    """
    if isinstance(grown, Adversary):
        return {}
    if isinstance(grown, ConditionalLinear):
        assert isinstance(fitted, ConditionalLinear)
        return _graft_linear(fitted, grown, place)
    tables = {}
    known = {**dict(fitted.named_parameters(recurse=False)), **dict(fitted.named_buffers(recurse=False))}
    for name, tensor in (*grown.named_parameters(recurse=False), *grown.named_buffers(recurse=False)):
        if _copy_rows(known[name], tensor) and isinstance(tensor, nn.Parameter):
            tables[place, name] = len(known[name])
    parts = dict(fitted.named_children())
    for name, child in grown.named_children():
        if name in parts:
            tables |= graft(parts[name], child, f"{place}.{name}" if place else name)
    return tables


def _graft_linear(fitted: ConditionalLinear, grown: ConditionalLinear, place: str) -> Tables:
    """A category of one level has no table in the fitted layer: a new one begins at zero, which is what it said."""
    grown.linear.weight.copy_(fitted.linear.weight)
    grown.linear.bias.copy_(fitted.linear.bias)
    known = dict(zip(fitted.informative, fitted.shifts, strict=True))
    tables = {}
    for i, (column, shift) in enumerate(zip(grown.informative, grown.shifts, strict=True)):
        table = f"{place}.shifts.{i}", "weight"
        if column not in known:
            shift.get_parameter("weight").zero_()
            tables[table] = 1
        elif _copy_rows(known[column].get_parameter("weight"), shift.get_parameter("weight")):
            tables[table] = len(known[column].get_parameter("weight"))
    return tables


def _copy_rows(known: Tensor, grown: Tensor) -> bool:
    """Fill a tensor with the one that is known, and rows beyond it with the mean of its rows; whether there are any."""
    if known.shape == grown.shape:
        grown.copy_(known)
        return False
    assert known.shape[1:] == grown.shape[1:]
    grown[: len(known)] = known
    grown[len(known) :] = known.mean(0)
    return True


def _first_layers(network: nn.Module) -> Iterator[nn.Parameter]:
    for module in network.modules():
        if isinstance(module, FullyConnected):
            first = module.blocks[0].linear
            assert isinstance(first, ConditionalLinear)
            yield from first.linear.parameters()
