"""The zero-inflated negative binomial, written as it is defined.

With pi = sigmoid(dropout_logits):  p(0) = pi + (1 - pi) NB(0)  and  p(x) = (1 - pi) NB(x) for x > 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scvi_pp._backend.kernels.negative_binomial import reference as negative_binomial


def log_probability(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor) -> Tensor:
    """log p(x) of every entry, (cells, genes)."""
    present = F.logsigmoid(-dropout_logits)  # log(1 - pi)
    dropped = F.logsigmoid(dropout_logits)  # log pi
    expressed = present + negative_binomial.log_probability(counts, log_mean, log_dispersion)
    return torch.where(counts > 0, expressed, torch.logaddexp(dropped, expressed))


def log_likelihood(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor) -> Tensor:
    """Sum over genes, (cells,)."""
    return log_probability(counts, log_mean, log_dispersion, dropout_logits).sum(1)
