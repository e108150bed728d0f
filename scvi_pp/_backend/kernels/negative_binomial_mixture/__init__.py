"""Two negative binomials with one dispersion, of which each count is from either: background, or foreground above it.

log_likelihood(counts, log_background, log_factor, log_dispersion, background_logits) -> (cells, proteins)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import runs_compiled
from scvi_pp._backend.kernels.negative_binomial_mixture import reference

if TYPE_CHECKING:
    from torch import Tensor


def log_likelihood(
    counts: Tensor, log_background: Tensor, log_factor: Tensor, log_dispersion: Tensor, background_logits: Tensor
) -> Tensor:
    """By protein; all (cells, proteins) but log_dispersion, which may be (proteins,)."""
    arguments = (counts, log_background, log_factor, log_dispersion, background_logits)
    if runs_compiled(log_background):
        from scvi_pp._backend.kernels.negative_binomial_mixture import cpu

        return cpu.log_likelihood(*arguments)
    return reference.log_likelihood(*arguments)
