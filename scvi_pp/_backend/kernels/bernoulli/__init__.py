"""Whether regions of chromatin are open: log_likelihood(counts, region_logits, cell_logits, factor_logits) -> (cells,).

A region is seen open if three things hold at once, each with the probability that its logit says: it is open in such a
cell, the cell was sequenced deeply enough, and the region can be seen at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import chosen, runs_compiled
from scvi_pp._backend.kernels.bernoulli import analytic, reference
from scvi_pp._backend.kernels.counts import dense, sparse

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(
    counts: Tensor | SparseRows, region_logits: Tensor, cell_logits: Tensor | None, factor_logits: Tensor | None
) -> Tensor:
    """Sum over regions of log p(open), where any positive count is open.

    counts and region_logits (cells, regions), cell_logits (cells, 1), factor_logits (regions,); None is a factor of one.
    """
    if chosen() == "reference":
        return reference.log_likelihood(dense(counts), region_logits, cell_logits, factor_logits)
    if runs_compiled(region_logits):
        from scvi_pp._backend.kernels.bernoulli import cpu

        return cpu.log_likelihood(sparse(counts), region_logits, cell_logits, factor_logits)
    return analytic.log_likelihood(counts, region_logits, cell_logits, factor_logits)
