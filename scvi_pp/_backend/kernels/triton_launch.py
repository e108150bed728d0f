"""How a Triton likelihood is started on a tile of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.kernels.tile_likelihood import Slopes

GENES_AT_A_TIME = 512  # of one cell, for one program: four numbers a thread


def launch(tile: Any, counts: Tensor, *parameters: Tensor, with_slopes: bool) -> tuple[Tensor, Slopes]:
    """Value (cells,) and the slope by each parameter, (cells, genes); of the parameters one may be (genes,).

    `tile` fills partial sums of the values, (cells, blocks of genes), which are added up in an order that is always the
    same: no atomic additions.
    """
    n_cells, n_genes = counts.shape
    n_blocks = triton.cdiv(n_genes, GENES_AT_A_TIME)
    values = torch.empty(n_cells, n_blocks, device=counts.device)
    slopes = tuple(torch.empty(n_cells, n_genes, device=counts.device) for _ in parameters if with_slopes)
    if values.numel():
        with torch.cuda.device_of(counts):  # Triton starts on the current device, whatever it is given
            tile[n_cells, n_blocks](
                counts.contiguous(),
                *(parameter.contiguous() for parameter in parameters),
                values,
                *(slopes or [values] * len(parameters)),  # something must stand where nothing is written
                n_genes,
                SHARED=any(parameter.ndim == 1 for parameter in parameters),
                WITH_SLOPES=with_slopes,
                BLOCK=GENES_AT_A_TIME,
                enable_fp_fusion=True,
            )
    return values.sum(1), slopes
