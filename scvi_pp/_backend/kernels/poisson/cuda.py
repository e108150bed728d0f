"""The Poisson distribution on an accelerator: in Triton where it works, else in plain operations on the whole tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scvi_pp._backend.kernels import tile_likelihood

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.kernels.tile_likelihood import Evaluate, Slopes
    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(counts: Tensor | SparseRows, log_mean: Tensor) -> Tensor:
    """Sum over genes, (cells,)."""
    return tile_likelihood.log_likelihood(_triton, dense, counts, log_mean)


def _triton() -> Evaluate:
    from scvi_pp._backend.kernels.poisson.triton_tile import evaluate

    return evaluate


def dense(counts: Tensor, log_mean: Tensor, *, with_slopes: bool) -> tuple[Tensor, Slopes]:
    """The formulas of `analytic.py` at every entry, with a selection where that picks out the counts."""
    mean = log_mean.exp()
    at_count = counts * log_mean - torch.lgamma(counts + 1)
    value = (torch.where(counts != 0, at_count, 0.0) - mean).sum(1)
    return value, ((counts - mean,) if with_slopes else ())
