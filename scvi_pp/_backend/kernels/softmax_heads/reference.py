"""The last layer and the likelihood one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scvi_pp._backend.kernels import negative_binomial, poisson, zero_inflated_negative_binomial

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import SparseRows


class Heads(NamedTuple):
    """Weights (genes, hidden) and biases (genes,) of the last layer; zero inflation has a second head."""

    scale_weight: Tensor
    scale_bias: Tensor
    dropout_weight: Tensor | None = None
    dropout_bias: Tensor | None = None


def log_likelihood(
    counts: Tensor | SparseRows, h: Tensor, log_library: Tensor, heads: Heads, log_dispersion: Tensor | None
) -> Tensor:
    """Sum over genes, (cells,)."""
    log_mean = log_library + torch.log_softmax(F.linear(h, heads.scale_weight, heads.scale_bias), dim=1)
    if log_dispersion is None:
        return poisson.log_likelihood(counts, log_mean)
    if heads.dropout_weight is None:
        return negative_binomial.log_likelihood(counts, log_mean, log_dispersion)
    dropout_logits = F.linear(h, heads.dropout_weight, heads.dropout_bias)
    return zero_inflated_negative_binomial.log_likelihood(counts, log_mean, log_dispersion, dropout_logits)
