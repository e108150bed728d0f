"""The last layer of a decoder of counts together with their likelihood: the layer whose size is cells x genes.

log_likelihood(counts, h, log_library, heads, log_dispersion) -> (cells,), for

    mean = library * softmax(h scale_weight' + scale_bias)        dropout logits = h dropout_weight' + dropout_bias

Taken together, the softmax, the likelihood and their gradients need one pass over each row while it is in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import runs_compiled
from scvi_pp._backend.kernels.counts import sparse
from scvi_pp._backend.kernels.softmax_heads import reference
from scvi_pp._backend.kernels.softmax_heads.reference import Heads

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows

__all__ = ["Heads", "log_likelihood"]


def log_likelihood(
    counts: Tensor | SparseRows, h: Tensor, log_library: Tensor, heads: Heads, log_dispersion: Tensor | None
) -> Tensor:
    """h (cells, hidden), log_library (cells, 1), log_dispersion (genes,), (cells, genes) or None for Poisson."""
    if runs_compiled(h):
        from scvi_pp._backend.kernels.softmax_heads import cpu

        return cpu.log_likelihood(sparse(counts), h, log_library, heads, log_dispersion)
    return reference.log_likelihood(counts, h, log_library, heads, log_dispersion)
