"""The Bernoulli distribution as machine code: one pass over a row, and one over its open places."""

from __future__ import annotations

# shared code: bef550407b83
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi_pp._backend.crew import crew
from scvi_pp._backend.kernels.arithmetic import ZERO, compiled, inlined
from scvi_pp._backend.kernels.bernoulli_row import BLOCK, NEVER, NOTHING, closed, missing, split

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import SparseRows

    Gradients = tuple[None, Tensor, Tensor | None, Tensor | None]


@compiled
def rows(starts, columns, x, region_logits, cell_logits, factor_logits, to_factor, values, to_cell):  # type: ignore[no-untyped-def]
    """Value and gradients of some cells; those by the region logits take their place.

    The gradient by the factors is left (cells, regions), to be summed as the values are weighted; or not at all, where
    `to_factor` has no rows.
    """
    n_regions = region_logits.shape[1]
    yes, no, spare = np.empty(n_regions, np.float32), np.empty(n_regions, np.float32), np.empty(n_regions, np.float32)
    here, at_region = np.empty(n_regions, np.int32), np.empty(n_regions, np.float32)
    at_factor = np.empty(n_regions, np.float32)
    for j in range(n_regions):
        yes[j], no[j] = split(factor_logits[j])
    for i in range(region_logits.shape[0]):
        logits, slopes, cell = region_logits[i], (to_factor[i] if to_factor.shape[0] else spare), cell_logits[i]
        first, last = starts[i], starts[i + 1]
        n_open = set_aside(columns[first:last], x[first:last], logits, factor_logits, here, at_region, at_factor)
        value, total = closed(logits, split(cell), yes, no, slopes)
        value += opened(at_region[:n_open], at_factor[:n_open])
        for k in range(n_open):
            logits[here[k]] = at_region[k]
            slopes[here[k]] = at_factor[k]
        values[i] = value - n_open * missing(cell)
        to_cell[i] = total + n_open * split(cell)[1]


@inlined
def set_aside(columns, x, logits, factor_logits, here, at_region, at_factor):  # type: ignore[no-untyped-def]
    """Take the logits of the open places out of the row, which then has nothing there; how many they are."""
    n = 0
    for k in range(columns.shape[0]):
        if x[k] > ZERO:
            j = columns[k]
            here[n], at_region[n], at_factor[n] = j, logits[j], factor_logits[j]
            logits[j] = NEVER
            n += 1
    return n


@inlined
def opened(at_region, at_factor):  # type: ignore[no-untyped-def]
    """The value of the open places but for the cell; the slopes take the place of the logits."""
    value = NOTHING
    for first in range(0, at_region.shape[0], BLOCK):
        block = slice(first, first + BLOCK)
        value += opened_block(at_region[block], at_factor[block])
    return value


@inlined
def opened_block(at_region, at_factor):  # type: ignore[no-untyped-def]
    """The same for a few places."""
    value = ZERO
    for k in range(at_region.shape[0]):
        region, factor = at_region[k], at_factor[k]
        value -= missing(region) + missing(factor)
        at_region[k], at_factor[k] = split(region)[1], split(factor)[1]
    return value


class Work:
    """The arguments of `rows` for some cells of a minibatch; after it, the gradients stand in their places."""

    def __init__(
        self,
        counts: SparseRows,
        region_logits: Tensor,  # (cells, regions), to be overwritten
        cell_logits: Tensor | None,
        factor_logits: Tensor | None,
    ) -> None:
        self.counts, self.region = counts, region_logits
        n_cells, n_regions = counts.shape
        self._cell_logits = row_of_logits(cell_logits, n_cells)
        self._factor_logits = row_of_logits(factor_logits, n_regions)
        self.values, self.to_cell = torch.empty(n_cells), torch.empty(n_cells)
        self.to_factor = torch.empty(0 if factor_logits is None else n_cells, n_regions)

    def run(self, part: slice) -> None:
        """Evaluate some of the cells."""
        rows(
            self.counts.places.starts[part.start : part.stop + 1].numpy(),
            self.counts.places.columns.numpy(),
            self.counts.values.numpy(),
            self.region[part].numpy(),
            self._cell_logits[part].numpy(),
            self._factor_logits.numpy(),
            self.to_factor[part].numpy(),
            self.values[part].numpy(),
            self.to_cell[part].numpy(),
        )


def row_of_logits(logits: Tensor | None, n: int) -> Tensor:
    """The logits one after the other; those of a factor of one are infinite."""
    return torch.full((n,), math.inf) if logits is None else logits.detach().reshape(-1).contiguous()


def log_likelihood(
    counts: SparseRows, region_logits: Tensor, cell_logits: Tensor | None, factor_logits: Tensor | None
) -> Tensor:
    """Sum over regions, (cells,)."""
    value: Tensor = _LogLikelihood.apply(counts, region_logits, cell_logits, factor_logits)  # type: ignore[no-untyped-call]
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counts: SparseRows, region: Tensor, cell: Tensor | None, factor: Tensor | None) -> Tensor:
        work = Work(counts, torch.empty(region.shape), cell, factor)

        def some(part: slice) -> None:
            work.region[part] = region[part]
            work.run(part)

        crew().share(len(region), some)
        ctx.has_cell, ctx.has_factor = cell is not None, factor is not None
        ctx.save_for_backward(work.region, work.to_cell, work.to_factor)  # and not the values: they lead back to here
        return work.values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Gradients:
        slopes, to_cell, to_factor = ctx.saved_tensors
        scale, to_region = outer[:, None], torch.empty_like(slopes)

        def some(part: slice) -> None:
            torch.mul(slopes[part], scale[part], out=to_region[part])

        crew().share(len(outer), some)
        of_cell = to_cell[:, None] * scale if ctx.has_cell else None
        return None, to_region, of_cell, outer @ to_factor if ctx.has_factor else None
