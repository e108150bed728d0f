"""The Bernoulli distribution with its gradients worked out by hand; of compressed counts the open places alone are gathered.

With y = sigmoid(logit) and n = sigmoid(-logit) of the region, the cell and the factor, r, c and f:

    p = y_r y_c y_f        1 - p = n_r + y_r (n_c + y_c n_f)        -log p = t

                    closed                open
    value           log(1 - p)            -t
    d/dt            p / (1 - p)           -1
    d/dlogit        -n d/dt               -n d/dt

1 - p is a sum of positive terms, never a difference: it keeps its digits where p rounds to 1.

Of dense counts, as an accelerator has them, every place is looked at: shapes depend on no value, nothing waits for the host.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi_pp._backend.kernels.bernoulli.reference import LOWEST
from scvi_pp._backend.kernels.counts import at_counts

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import SparseRows

    Gradients = tuple[None, Tensor, Tensor | None, Tensor | None]


def log_likelihood(
    counts: Tensor | SparseRows, region_logits: Tensor, cell_logits: Tensor | None, factor_logits: Tensor | None
) -> Tensor:
    """Sum over regions, (cells,)."""
    value: Tensor = _LogLikelihood.apply(counts, region_logits, cell_logits, factor_logits)  # type: ignore[no-untyped-call]
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counts: Tensor | SparseRows, region: Tensor, cell: Tensor | None, factor: Tensor | None
    ) -> Tensor:
        certain = region.new_full((), math.inf)  # the logit of a factor of one
        logits = [region, certain if cell is None else cell, certain if factor is None else factor]
        value, slope, no_region = _closed(*logits)
        is_wanted = any(ctx.needs_input_grad)
        if isinstance(counts, Tensor):
            value = _open_everywhere(counts, value, slope, logits)
        else:
            _open_at_counts(counts, value, slope if is_wanted else None, logits)
        if is_wanted:
            ctx.has_cell, ctx.has_factor = cell is not None, factor is not None
            to_cell = -(slope * torch.sigmoid(-logits[1])).sum(1, keepdim=True) if ctx.has_cell else None
            to_region = no_region.mul_(slope).neg_()
            ctx.save_for_backward(to_region, to_cell, slope if ctx.has_factor else None, torch.sigmoid(-logits[2]))
        return value.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Gradients:
        to_region, to_cell, slope, no_factor = ctx.saved_tensors
        scale = outer[:, None]
        return (
            None,
            to_region * scale,
            to_cell * scale if ctx.has_cell else None,
            -(outer @ slope) * no_factor if ctx.has_factor else None,
        )


def _open_everywhere(counts: Tensor, value: Tensor, slope: Tensor, logits: list[Tensor]) -> Tensor:
    """The value, (cells, regions), with that of open regions where they are; the slope is set in place."""
    is_open = counts > 0
    log_open = F.logsigmoid(logits[0])
    for each in logits[1:]:
        log_open = log_open + F.logsigmoid(each)
    slope.masked_fill_(is_open, -1)
    return torch.where(is_open, log_open, value)


def _open_at_counts(counts: SparseRows, value: Tensor, slope: Tensor | None, logits: list[Tensor]) -> None:
    """Set value and slope, if it is wanted, in place where there are counts."""
    where, x = at_counts(counts, value.dtype)
    is_open = x > 0
    log_open = sum(F.logsigmoid(each.expand_as(value)[where]) for each in logits)
    value[where] = torch.where(is_open, log_open, value[where])
    if slope is not None:
        slope[where] = slope[where].masked_fill(is_open, -1)


def _closed(region: Tensor, cell: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(1 - p) and p / (1 - p), as if all were closed, and sigmoid(-region); each (cells, regions)."""
    yes_region, no_region, yes_cell = torch.sigmoid(region), region.neg().sigmoid_(), torch.sigmoid(cell)
    others = torch.sigmoid(-cell) + yes_cell * torch.sigmoid(-factor)
    rest = (yes_region * others).add_(no_region)  # 1 - p
    p = yes_region.mul_(yes_cell).mul_(torch.sigmoid(factor))
    value = torch.where(p < 0.5, torch.log1p(-p), rest.log()).clamp_(min=LOWEST)
    odds = p.div_(rest.clamp_(min=torch.finfo(rest.dtype).tiny))  # finite, so that it stays so times n
    return value, odds.masked_fill_(value <= LOWEST, 0), no_region
