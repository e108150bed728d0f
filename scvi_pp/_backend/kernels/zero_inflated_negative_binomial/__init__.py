"""The zero-inflated negative binomial: log_likelihood(counts, log_mean, log_dispersion, dropout_logits) -> (cells,)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import chosen
from scvi_pp._backend.kernels.zero_inflated_negative_binomial import analytic, reference

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor) -> Tensor:
    """Sum over genes of log p(x); all (cells, genes) but log_dispersion, which may be (genes,)."""
    if chosen() == "reference":
        return reference.log_likelihood(counts, log_mean, log_dispersion, dropout_logits)
    return analytic.log_likelihood(counts, log_mean, log_dispersion, dropout_logits)
