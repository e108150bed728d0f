"""The last layer and the likelihood together, a tile of regions at a time, each thread with tiles of its own.

A tile is multiplied, evaluated and differentiated before the next is begun. The gradient of a weighted sum needs the
weights: those of a mean are known beforehand, so the usual backward pass finds everything done. Any other weights cost
a second pass.
"""

from __future__ import annotations

# shared code: bef550407b83
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi_pp._backend.crew import crew
from scvi_pp._backend.kernels.arithmetic import ZERO, compiled, inlined
from scvi_pp._backend.kernels.bernoulli.cpu import row_of_logits
from scvi_pp._backend.kernels.bernoulli_row import NEVER, closed, missing, split
from scvi_pp._backend.scratch import borrow

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import SparseRows

TILE_ENTRIES = 1 << 16  # cells x regions of a tile: a quarter of a megabyte, twice, beside the weights of its regions


def log_likelihood(
    counts: SparseRows,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    cell_logits: Tensor | None,
    factor_logits: Tensor | None,
    n_in_mean: int,
) -> Tensor:
    """Sum over regions, (cells,)."""
    value: Tensor = _LogLikelihood.apply(  # type: ignore[no-untyped-call]
        counts, h, weight, bias, cell_logits, factor_logits, n_in_mean
    )
    return value


@dataclass(frozen=True)
class Layer:
    """What the likelihood is a function of."""

    h: Tensor
    weight: Tensor
    bias: Tensor
    cell_logits: Tensor | None
    factor_logits: Tensor | None


class Pass:
    """One pass over all tiles: the values, and unless `outer` is None the gradients of their sum weighted by it."""

    def __init__(self, counts: SparseRows, layer: Layer, outer: Tensor | None) -> None:
        self.counts, self.layer, self.outer = counts, layer, outer
        n_cells, n_regions = counts.shape
        self._cell = row_of_logits(layer.cell_logits, n_cells)
        self._factor = row_of_logits(layer.factor_logits, n_regions)
        self._width = max(64, TILE_ENTRIES // max(1, n_cells))
        if outer is not None:
            self._weighted = layer.h * outer[:, None]
            self.to_weight, self.to_bias = borrow(*layer.weight.shape), torch.empty_like(layer.bias)
            self.to_factor = torch.empty(n_regions)
        shares: dict[int, _Share] = {}

        def some(tiles: slice) -> None:
            shares[tiles.start] = self._some_tiles(tiles)

        crew().share(-(-n_regions // self._width), some)
        parts = [shares[start] for start in sorted(shares)]
        self.values = torch.stack([part.values for part in parts]).sum(0).float()
        if outer is not None:
            self.to_h = torch.stack([part.to_h for part in parts]).sum(0).mul_(outer[:, None])
            self.to_cell = torch.stack([part.to_cell for part in parts]).sum(0).float() * outer

    def _some_tiles(self, tiles: slice) -> _Share:
        n_cells, n_regions = self.counts.shape
        logits, slopes = torch.empty(2, n_cells * self._width)
        share = _Share(
            torch.zeros(n_cells, dtype=torch.float64),
            torch.zeros(n_cells, dtype=torch.float64),
            torch.zeros_like(self.layer.h),
        )
        for number in range(tiles.start, tiles.stop):
            first, last = number * self._width, min((number + 1) * self._width, n_regions)
            size = n_cells * (last - first)
            shape = (n_cells, last - first)
            self._tile(slice(first, last), logits[:size].view(shape), slopes[:size].view(shape), share)
        return share

    def _tile(self, regions: slice, logits: Tensor, slopes: Tensor, share: _Share) -> None:
        """The values of a tile are added to those of the share; its logits and slopes are overwritten."""
        layer = self.layer
        torch.addmm(layer.bias[regions], layer.h, layer.weight[regions].t(), out=logits)
        by_column = self.counts.places.by_column
        tile(
            by_column.starts[regions.start : regions.stop + 1].numpy(),
            by_column.rows.numpy(),
            by_column.order.numpy(),
            self.counts.values.numpy(),
            logits.numpy(),
            self._cell.numpy(),
            self._factor[regions].numpy(),
            slopes.numpy(),
            share.values.numpy(),
            share.to_cell.numpy(),
        )
        if self.outer is None:
            return
        torch.mm(logits.t(), self._weighted, out=self.to_weight[regions])
        torch.mv(logits.t(), self.outer, out=self.to_bias[regions])
        share.to_h.addmm_(logits, layer.weight[regions])
        if layer.factor_logits is not None:
            torch.mv(slopes.t(), self.outer, out=self.to_factor[regions])


@dataclass(frozen=True)
class _Share:
    """What a thread adds up over its tiles."""

    values: Tensor  # float64 (cells,)
    to_cell: Tensor  # float64 (cells,)
    to_h: Tensor  # (cells, hidden)


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        counts: SparseRows,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        cell_logits: Tensor | None,
        factor_logits: Tensor | None,
        n_in_mean: int,
    ) -> Tensor:
        cell, factor = (None if each is None else each.detach() for each in (cell_logits, factor_logits))
        layer = Layer(h.detach(), weight.detach(), bias.detach(), cell, factor)
        expected = torch.full((len(h),), -1.0) / n_in_mean if any(ctx.needs_input_grad) else None
        done = Pass(counts, layer, expected)
        values = done.values
        del done.values  # they lead back to here
        ctx.counts, ctx.layer, ctx.done = counts, layer, done
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        done, ctx.done = ctx.done, None  # handed on, not kept: autograd would copy gradients that are
        if done is None or not torch.equal(outer, done.outer):
            done = Pass(ctx.counts, ctx.layer, outer.contiguous())
        layer: Layer = ctx.layer
        return (
            None,
            done.to_h,
            done.to_weight,
            done.to_bias,
            None if layer.cell_logits is None else done.to_cell[:, None],
            None if layer.factor_logits is None else done.to_factor,
            None,
        )


@compiled
def tile(starts, rows, order, x, logits, cell_logits, factor_logits, slopes, values, to_cell):  # type: ignore[no-untyped-def]
    """Add the values and their slopes by the cell; slopes by region and factor logits take their places.

    `starts` are those of the tile's columns among the open places, which `rows` and `order` tell column by column.
    """
    n_cells, n_regions = logits.shape
    first, last = starts[0], starts[n_regions]
    at_region, at_factor = np.empty(last - first, np.float32), np.empty(last - first, np.float32)
    n_open = set_aside(starts, rows, order, x, logits, factor_logits, at_region, at_factor)
    yes, no = np.empty(n_regions, np.float32), np.empty(n_regions, np.float32)
    for j in range(n_regions):
        yes[j], no[j] = split(factor_logits[j])
    for i in range(n_cells):
        value, total = closed(logits[i], split(cell_logits[i]), yes, no, slopes[i])
        values[i] += value
        to_cell[i] += total
    losses = np.empty(n_open, np.float32)
    opened(at_region[:n_open], at_factor[:n_open], losses)
    put_back(starts, rows, order, x, cell_logits, at_region, at_factor, losses, logits, slopes, values, to_cell)


@inlined
def set_aside(starts, rows, order, x, logits, factor_logits, at_region, at_factor):  # type: ignore[no-untyped-def]
    """Take the logits of the open places out of the tile, which then has nothing there; how many they are."""
    n = 0
    for j in range(starts.shape[0] - 1):
        for k in range(starts[j], starts[j + 1]):
            if x[order[k]] > ZERO:
                at_region[n], at_factor[n] = logits[rows[k], j], factor_logits[j]
                logits[rows[k], j] = NEVER
                n += 1
    return n


@inlined
def opened(at_region, at_factor, losses):  # type: ignore[no-untyped-def]
    """-log p of the open places but for the cell; the slopes take the place of the logits."""
    for k in range(at_region.shape[0]):
        region, factor = at_region[k], at_factor[k]
        losses[k] = missing(region) + missing(factor)
        at_region[k], at_factor[k] = split(region)[1], split(factor)[1]


@inlined
def put_back(starts, rows, order, x, cell_logits, at_region, at_factor, losses, logits, slopes, values, to_cell):  # type: ignore[no-untyped-def]
    """The open places into the tile and into the sums of their cells."""
    n_cells = cell_logits.shape[0]
    of_cell, slope = np.empty(n_cells, np.float32), np.empty(n_cells, np.float32)
    for i in range(n_cells):
        of_cell[i], slope[i] = missing(cell_logits[i]), split(cell_logits[i])[1]
    n = 0
    for j in range(starts.shape[0] - 1):
        for k in range(starts[j], starts[j + 1]):
            if x[order[k]] > ZERO:
                i = rows[k]
                values[i] -= losses[n] + of_cell[i]
                to_cell[i] += slope[i]
                logits[i, j], slopes[i, j] = at_region[n], at_factor[n]
                n += 1
