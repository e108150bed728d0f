"""The last layer of a decoder of open chromatin together with its likelihood: the layer whose size is cells x regions.

log_likelihood(counts, h, weight, bias, cell_logits, factor_logits) -> (cells,), for

    region logits = h weight' + bias        p(open) = sigmoid(region) sigmoid(cell) sigmoid(factor)

Taken together, a few thousand regions are multiplied, compared with the counts and differentiated at a time, while they
are in the cache: with 200,000 regions no matrix of cells x regions is ever made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import runs_compiled
from scvi_pp._backend.kernels.bernoulli_heads import reference
from scvi_pp._backend.kernels.counts import sparse

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(
    counts: Tensor | SparseRows,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    cell_logits: Tensor | None,
    factor_logits: Tensor | None,
    *,
    n_in_mean: int | None = None,
) -> Tensor:
    """Sum over regions of log p(open), where any positive count is open.

    counts (cells, regions), h (cells, hidden), weight (regions, hidden), bias and factor_logits (regions,), cell_logits
    (cells, 1); None is a factor of one. Gradients are ready without a second pass where the loss is the negative sum of
    the result over `n_in_mean`, by default the number of cells.
    """
    if runs_compiled(h):
        from scvi_pp._backend.kernels.bernoulli_heads import cpu

        n = len(h) if n_in_mean is None else n_in_mean
        return cpu.log_likelihood(sparse(counts), h, weight, bias, cell_logits, factor_logits, n)
    return reference.log_likelihood(counts, h, weight, bias, cell_logits, factor_logits)
