"""The zero-inflated negative binomial: log_likelihood(counts, log_mean, log_dispersion, dropout_logits) -> (cells,)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import chosen, runs_compiled
from scvi_pp._backend.kernels.counts import dense, sparse
from scvi_pp._backend.kernels.zero_inflated_negative_binomial import analytic, cuda, reference

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(
    counts: Tensor | SparseRows, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor
) -> Tensor:
    """Sum over genes of log p(x); all (cells, genes) but log_dispersion, which may be (genes,)."""
    if chosen() == "reference":
        return reference.log_likelihood(dense(counts), log_mean, log_dispersion, dropout_logits)
    if runs_compiled(log_mean):
        from scvi_pp._backend.kernels import row_likelihood
        from scvi_pp._backend.kernels.zero_inflated_negative_binomial.cpu import rows

        return row_likelihood.log_likelihood(rows, sparse(counts), log_mean, log_dispersion, dropout_logits)
    if log_mean.device.type != "cpu":
        return cuda.log_likelihood(counts, log_mean, log_dispersion, dropout_logits)
    return analytic.log_likelihood(counts, log_mean, log_dispersion, dropout_logits)
