"""First and second moments of counts, in one pass over the training cells: where a model of counts may begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scvi_pp._backend.kernels.counts import at_counts, totals

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.streams import Cells

# beyond these the method of moments says "no overdispersion seen" or rests on a handful of counts
DISPERSION_RANGE = (0.05, 100.0)


@dataclass(frozen=True)
class Moments:
    """Of counts x with mean exposure * share: the exposure of a cell is its total, or its size factor."""

    share: Tensor  # (genes,)
    dispersion: Tensor  # (genes,) theta in variance = mean + mean^2 / theta
    deviation: Tensor  # (genes,) standard deviation about the mean


def expression_moments(cells: Cells, rows: Tensor, *, block: int = 4096) -> Moments:
    """Moments of the expression of each gene, accumulated in float64."""
    n_genes = cells.minibatch(rows[:1]).counts.shape[1]
    x_sum, x_squared, x_exposure = torch.zeros(3, n_genes, dtype=torch.float64, device=cells.device)
    exposure_sum = exposure_squared = 0.0
    for _, cell in cells.blocks(block, rows):
        (row, column), x = at_counts(cell.counts, torch.float64)
        exposure = (totals(cell.counts) if cell.size_factor is None else cell.size_factor).double()
        x_sum += torch.bincount(column, x, minlength=n_genes)
        x_squared += torch.bincount(column, x * x, minlength=n_genes)
        x_exposure += torch.bincount(column, x * exposure[row], minlength=n_genes)
        exposure_sum += float(exposure.sum())
        exposure_squared += float(exposure @ exposure)
    share = x_sum / (exposure_sum or 1.0)  # no counts at all: shares of zero
    expected_squared = share * share * exposure_squared
    residual = x_squared - 2 * share * x_exposure + expected_squared  # sum over cells of (x - mean)^2
    excess = (residual - x_sum).clamp(min=1e-12)
    seen = share[share > 0]
    smallest = float(seen.min()) if len(seen) else 1.0 / len(share)
    return Moments(
        share.clamp(min=smallest).float(),
        (expected_squared / excess).clamp(*DISPERSION_RANGE).float(),
        (residual / len(rows)).clamp(min=1e-8).sqrt().float(),
    )


def open_share(cells: Cells, rows: Tensor, *, block: int = 4096) -> Tensor:
    """How often each region is open where it could be seen, float32 (regions,).

    A cell could be seen as well as its size factor says, if there is one; else each counts as a whole cell.
    """
    n_regions = cells.minibatch(rows[:1]).counts.shape[1]
    n_open = torch.zeros(n_regions, dtype=torch.int64, device=cells.device)
    exposure = 0.0
    for where, cell in cells.blocks(block, rows):
        (_, region), x = at_counts(cell.counts, torch.float32)
        n_open += torch.bincount(region[x > 0], minlength=n_regions)
        n = where.stop - where.start
        exposure += n if cell.size_factor is None else float(cell.size_factor.sum(dtype=torch.float64))
    return (n_open / exposure).float()


def library_moments(cells: Cells, rows: Tensor, n_batches: int, *, block: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and variance of the log total count of each batch, (n_batches,) each; 0 and 1 where a batch is empty.

    Cells without counts say nothing of the library size and are left out.
    """
    log_total = torch.cat([totals(cell.counts).double() for _, cell in cells.blocks(block, rows)])
    batch = torch.cat([cell.batch for _, cell in cells.blocks(block, rows)])
    batch, log_total = batch[log_total > 0], log_total[log_total > 0].log()
    n = torch.bincount(batch, minlength=n_batches)
    mean = torch.bincount(batch, log_total, minlength=n_batches) / n.clamp(min=1)
    deviation = (log_total - mean[batch]).square()
    variance = torch.bincount(batch, deviation, minlength=n_batches) / n.clamp(min=1)
    return mean.float(), torch.where(variance > 0, variance, 1.0).float()


def log_moments(cells: Cells, rows: Tensor, *, block: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of log(1 + count) of each feature, float32 (features,) each."""
    n_features = cells.minibatch(rows[:1]).counts.shape[1]
    total, squared = torch.zeros(2, n_features, dtype=torch.float64, device=cells.device)
    for _, cell in cells.blocks(block, rows):
        (_, column), x = at_counts(cell.counts, torch.float64)
        log_x = x.log1p()
        total += torch.bincount(column, log_x, minlength=n_features)
        squared += torch.bincount(column, log_x * log_x, minlength=n_features)
    mean = total / len(rows)
    return mean.float(), (squared / len(rows) - mean * mean).clamp(min=0).sqrt().float()
