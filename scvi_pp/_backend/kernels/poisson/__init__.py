"""The Poisson distribution of counts: log_likelihood(counts, log_mean) -> (cells,)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import chosen, runs_compiled
from scvi_pp._backend.kernels.counts import dense, sparse
from scvi_pp._backend.kernels.poisson import analytic, cuda, reference

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(counts: Tensor | SparseRows, log_mean: Tensor) -> Tensor:
    """Sum over genes of log p(x); both (cells, genes)."""
    if chosen() == "reference":
        return reference.log_likelihood(dense(counts), log_mean)
    if runs_compiled(log_mean):
        from scvi_pp._backend.kernels import row_likelihood
        from scvi_pp._backend.kernels.poisson.cpu import rows

        return row_likelihood.log_likelihood(rows, sparse(counts), log_mean, None, None)
    if log_mean.device.type != "cpu":
        return cuda.log_likelihood(counts, log_mean)
    return analytic.log_likelihood(counts, log_mean)
