"""When numbers of ours and of the peer are the same, and a peer whose weights are worth comparing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from scvi_pp._backend import kernels
from scvi_pp._backend.sparse import SparseRows
from tests.parity.weights import Pairs

GRADIENT = 1e-4  # relative
FORMS = ("auto", "auto on rows", "reference")


@contextmanager
def using(form: str, cells: Any) -> Iterator[Any]:
    """That form of the kernels, and the cells as training on a CPU has them where the form says so."""
    with kernels.use("reference" if form == "reference" else "auto"):
        yield cells._replace(counts=SparseRows.of(cells.counts)) if form == "auto on rows" else cells


def every_combination(
    axes: tuple[Iterable[str], ...], at_least: Callable[..., bool], at_most: Callable[..., bool] = lambda *_: True
) -> list[Any]:
    """All combinations of settings; those that are not among the least are marked, and run at night alone."""
    return [
        pytest.param(*values, marks=() if at_least(*values) else pytest.mark.exhaustive)
        for values in itertools.product(*axes)
        if at_most(*values)
    ]


def agree_each(ours: torch.Tensor, theirs: torch.Tensor, relative: float) -> None:
    """Relative to each entry."""
    torch.testing.assert_close(ours, theirs, rtol=relative, atol=0.0)


def agree(ours: torch.Tensor, theirs: torch.Tensor, relative: float, *, floor: float = 0.0) -> None:
    """Relative to the largest entry: what is small beside it carries its rounding."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach().double()
    assert torch.isfinite(ours).all()
    scale = max(float(theirs.abs().max()), floor)
    worst = float((ours - theirs).abs().max())
    assert worst <= relative * scale, f"{worst / scale:.1e} of the largest, {scale:.3g}"


def agree_in_every_gradient(network: nn.Module, module: nn.Module, of_both: Pairs) -> None:
    """After both went backward; a weight that only the peer has must not move its loss."""
    shared = [pair for pair in of_both(network, module) if isinstance(pair.ours, nn.Parameter)]
    assert {pair.name for pair in shared} == dict(network.named_parameters()).keys()
    largest = max(float(pair.peers.grad.abs().max()) for pair in shared)
    for pair in shared:
        agree(pair.ours.grad, pair.view(pair.peers.grad), GRADIENT, floor=1e-3 * largest)
    twinned = {id(pair.peers) for pair in shared}
    lone = [p for p in module.parameters() if id(p) not in twinned]
    assert all(p.grad is None or not p.grad.any() for p in lone), "a weight that we lack moves the peer's loss"


@torch.no_grad()
def make_non_trivial(module: nn.Module) -> None:
    """As after training: larger weights, and batch norms that have seen data."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.3, 2)
            part.weight.uniform_(0.5, 1.5)
            part.bias.normal_(0, 0.3)
            part.num_batches_tracked.fill_(100)
        elif isinstance(part, nn.Linear):
            part.weight.mul_(1.5)
