"""The negative binomial on an accelerator: in Triton where it works, else in plain operations on the whole tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scvi_pp._backend.kernels import tile_likelihood
from scvi_pp._backend.kernels.gamma_ratio import log_gamma_ratio

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.kernels.tile_likelihood import Evaluate, Slopes
    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(counts: Tensor | SparseRows, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Sum over genes, (cells,)."""
    return tile_likelihood.log_likelihood(_triton, dense, counts, log_mean, log_dispersion)


def _triton() -> Evaluate:
    from scvi_pp._backend.kernels.negative_binomial.triton_tile import evaluate

    return evaluate


def dense(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor, *, with_slopes: bool) -> tuple[Tensor, Slopes]:
    """The formulas of `analytic.py` at every entry, with a selection where that picks out the counts."""
    counted = counts != 0
    theta, log_odds = log_dispersion.exp(), log_mean - log_dispersion
    softplus = F.softplus(log_odds)
    ratio, ratio_slope = log_gamma_ratio(theta, counts)  # nothing at a zero
    at_count = ratio - torch.lgamma(counts + 1) - counts * F.softplus(-log_odds)
    value = (torch.where(counted, at_count, 0.0) - theta * softplus).sum(1)
    if not with_slopes:
        return value, ()
    push, pull = theta * torch.sigmoid(log_odds), torch.where(counted, counts * torch.sigmoid(-log_odds), 0.0)
    return value, (pull - push, theta * (ratio_slope - softplus) + push - pull)
