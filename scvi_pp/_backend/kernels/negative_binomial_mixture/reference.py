"""The mixture as its formula says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scvi_pp._backend.kernels.gamma_ratio import log_rising

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(
    counts: Tensor, log_background: Tensor, log_factor: Tensor, log_dispersion: Tensor, background_logits: Tensor
) -> Tensor:
    """By protein, (cells, proteins)."""
    theta, log_odds = log_dispersion.exp(), log_background - log_dispersion
    in_both = log_rising(theta.expand_as(counts), counts) - torch.lgamma(counts + 1)
    background, foreground = (
        -theta * F.softplus(each) - counts * F.softplus(-each) for each in (log_odds, log_odds + log_factor)
    )
    is_background, is_foreground = F.logsigmoid(background_logits), F.logsigmoid(-background_logits)
    return in_both + torch.logaddexp(background + is_background, foreground + is_foreground)
