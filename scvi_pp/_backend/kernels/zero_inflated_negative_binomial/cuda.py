"""The zero-inflated negative binomial on an accelerator: in Triton where it works, else in plain operations."""

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


def log_likelihood(
    counts: Tensor | SparseRows, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor
) -> Tensor:
    """Sum over genes, (cells,)."""
    return tile_likelihood.log_likelihood(_triton, dense, counts, log_mean, log_dispersion, dropout_logits)


def _triton() -> Evaluate:
    from scvi_pp._backend.kernels.zero_inflated_negative_binomial.triton_tile import evaluate

    return evaluate


def dense(
    counts: Tensor, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor, *, with_slopes: bool
) -> tuple[Tensor, Slopes]:
    """The formulas of `analytic.py` at every entry, with a selection between a zero and a count."""
    counted = counts != 0
    theta, log_odds = log_dispersion.exp(), log_mean - log_dispersion
    softplus = F.softplus(log_odds)
    at_zero = -theta * softplus  # of the negative binomial
    excess = at_zero - dropout_logits
    ratio, ratio_slope = log_gamma_ratio(theta, counts)
    at_count = ratio - torch.lgamma(counts + 1) - counts * F.softplus(-log_odds) + at_zero - F.softplus(dropout_logits)
    value = torch.where(counted, at_count, F.softplus(excess) - F.softplus(-dropout_logits)).sum(1)
    if not with_slopes:
        return value, ()
    share, expressed = torch.sigmoid(log_odds), torch.sigmoid(excess)
    pull, weighted = counts * torch.sigmoid(-log_odds), expressed * theta
    slope_mean = torch.where(counted, pull - theta * share, -weighted * share)
    at_count = theta * (ratio_slope + share - softplus) - pull
    slope_dispersion = torch.where(counted, at_count, weighted * (share - softplus))
    slope_dropout = torch.where(counted, -torch.sigmoid(dropout_logits), torch.sigmoid(-dropout_logits) - expressed)
    return value, (slope_mean, slope_dispersion, slope_dropout)
