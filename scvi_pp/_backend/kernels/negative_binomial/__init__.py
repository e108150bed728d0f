"""The negative binomial of counts: log_likelihood(counts, log_mean, log_dispersion) -> (cells,)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import chosen
from scvi_pp._backend.kernels.negative_binomial import analytic, reference

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Sum over genes of log p(x); counts and log_mean (cells, genes), log_dispersion (genes,) or (cells, genes)."""
    if chosen() == "reference":
        return reference.log_likelihood(counts, log_mean, log_dispersion)
    return analytic.log_likelihood(counts, log_mean, log_dispersion)
