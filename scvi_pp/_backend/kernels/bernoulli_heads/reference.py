"""The last layer and the likelihood one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from scvi_pp._backend.kernels import bernoulli

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
) -> Tensor:
    """Sum over regions, (cells,)."""
    return bernoulli.log_likelihood(counts, F.linear(h, weight, bias), cell_logits, factor_logits)
