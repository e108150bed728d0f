"""The negative binomial in Triton: value and slopes in one pass over a tile of counts.

The formulas are those of `analytic.py`. One program has one cell and a block of genes; what a zero leaves out is left
out by selection, since among the lanes of a program there is always some count.
"""

from __future__ import annotations

from functools import partial

import triton
import triton.language as tl

from scvi_pp._backend.kernels.triton_launch import launch
from scvi_pp._backend.kernels.triton_math import log_factorial, log_gamma_ratio, softplus_and_sigmoid


@triton.jit  # type: ignore[untyped-decorator]
def tile(  # type: ignore[no-untyped-def]
    counts, log_mean, log_dispersion, values, to_mean, to_dispersion, n_genes,
    SHARED: tl.constexpr, WITH_SLOPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of the values, (cells, blocks of genes), and the slopes, (cells, genes)."""
    cell, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    gene = block * BLOCK + tl.arange(0, BLOCK)
    here = gene < n_genes
    at = cell * n_genes + gene
    x = tl.load(counts + at, mask=here, other=0.0)
    r = tl.load(log_dispersion + (gene if SHARED else at), mask=here, other=0.0)
    theta = tl.exp(r)
    softplus, missing, share, rest = softplus_and_sigmoid(tl.load(log_mean + at, mask=here, other=0.0) - r)
    ratio, ratio_slope = log_gamma_ratio(theta, x)
    counted = x != 0.0
    value = tl.where(counted, ratio - log_factorial(x) - x * missing, 0.0) - theta * softplus
    tl.store(values + cell * tl.num_programs(1) + block, tl.sum(tl.where(here, value, 0.0), 0))
    if WITH_SLOPES:
        pull, push = tl.where(counted, x * rest, 0.0), theta * share
        gain = tl.where(counted, theta * ratio_slope, 0.0)
        tl.store(to_mean + at, pull - push, mask=here)
        tl.store(to_dispersion + at, gain + push - theta * softplus - pull, mask=here)


evaluate = partial(launch, tile)
