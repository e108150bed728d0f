"""The Poisson distribution in Triton: value and slope in one pass over a tile of counts."""

from __future__ import annotations

from functools import partial

import triton
import triton.language as tl

from scvi_pp._backend.kernels.triton_launch import launch
from scvi_pp._backend.kernels.triton_math import log_factorial


@triton.jit  # type: ignore[untyped-decorator]
def tile(  # type: ignore[no-untyped-def]
    counts, log_mean, values, to_mean, n_genes,
    SHARED: tl.constexpr, WITH_SLOPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of the values, (cells, blocks of genes), and the slope, (cells, genes)."""
    cell, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    gene = block * BLOCK + tl.arange(0, BLOCK)
    here = gene < n_genes
    at = cell * n_genes + gene
    x = tl.load(counts + at, mask=here, other=0.0)
    m = tl.load(log_mean + at, mask=here, other=0.0)
    mean = tl.exp(m)
    value = tl.where(x != 0.0, x * m - log_factorial(x), 0.0) - mean
    tl.store(values + cell * tl.num_programs(1) + block, tl.sum(tl.where(here, value, 0.0), 0))
    if WITH_SLOPES:
        tl.store(to_mean + at, x - mean, mask=here)


evaluate = partial(launch, tile)
