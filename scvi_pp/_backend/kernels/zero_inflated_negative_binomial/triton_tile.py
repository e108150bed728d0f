"""The zero-inflated negative binomial in Triton: value and slopes in one pass over a tile of counts.

The formulas are those of `analytic.py`; at a count softplus(d) - softplus(-z) - softplus(-d) is written as
-theta softplus(u) - softplus(z), which it is.
"""

from __future__ import annotations

from functools import partial

import triton
import triton.language as tl

from scvi_pp._backend.kernels.triton_launch import launch
from scvi_pp._backend.kernels.triton_math import log_factorial, log_gamma_ratio, softplus_and_sigmoid


@triton.jit  # type: ignore[untyped-decorator]
def tile(  # type: ignore[no-untyped-def]
    counts, log_mean, log_dispersion, dropout, values, to_mean, to_dispersion, to_dropout, n_genes,
    SHARED: tl.constexpr, WITH_SLOPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of the values, (cells, blocks of genes), and the slopes, (cells, genes)."""
    cell, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    gene = block * BLOCK + tl.arange(0, BLOCK)
    here = gene < n_genes
    at = cell * n_genes + gene
    x = tl.load(counts + at, mask=here, other=0.0)
    r = tl.load(log_dispersion + (gene if SHARED else at), mask=here, other=0.0)
    z = tl.load(dropout + at, mask=here, other=0.0)
    theta = tl.exp(r)
    softplus, missing, share, rest = softplus_and_sigmoid(tl.load(log_mean + at, mask=here, other=0.0) - r)
    above, _, expressed, _ = softplus_and_sigmoid(theta * -softplus - z)
    dropped, kept, lost, present = softplus_and_sigmoid(z)  # softplus(z), softplus(-z), sigmoid(z), sigmoid(-z)
    ratio, ratio_slope = log_gamma_ratio(theta, x)
    counted = x != 0.0
    at_count = ratio - log_factorial(x) - x * missing - theta * softplus - dropped
    value = tl.where(counted, at_count, above - kept)
    tl.store(values + cell * tl.num_programs(1) + block, tl.sum(tl.where(here, value, 0.0), 0))
    if WITH_SLOPES:
        pull, weighted = x * rest, expressed * theta
        tl.store(to_mean + at, tl.where(counted, pull - theta * share, -weighted * share), mask=here)
        at_count = theta * (ratio_slope + share - softplus) - pull
        tl.store(to_dispersion + at, tl.where(counted, at_count, weighted * (share - softplus)), mask=here)
        tl.store(to_dropout + at, tl.where(counted, -lost, present - expressed), mask=here)


evaluate = partial(launch, tile)
