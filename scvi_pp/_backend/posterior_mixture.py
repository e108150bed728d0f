"""How what several modalities say of a cell becomes one posterior, and by how much they disagree.

Let modality k, where it was measured, say Normal(m_k, v_k) of the latent position, and let u_k be its logit. Then

    w_k ~ exp(u_k) over the modalities that were measured in the cell, and sum to one
    z   = sum_k w_k z_k with z_k ~ Normal(m_k, v_k) independent of each other
        ~ Normal(sum_k w_k m_k, sum_k w_k^2 v_k)

A cell of which nothing was measured keeps the prior, Normal(0, 1).
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi_pp._backend import priors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Weights = Literal["equal", "universal", "cell"]
Penalty = Literal["Jeffreys", "MMD", "none"]


class ModalityWeights(nn.Module):
    """How much each modality counts: the same everywhere, a learned share, or one that each cell may depart from.

    What a cell's own weights are measured from is learned from all of them. It is what is left for a cell that training
    has not seen: held out, or new.
    """

    def __init__(self, how: Weights, n_modalities: int, n_cells: int) -> None:
        super().__init__()
        self.n_modalities = n_modalities
        self.shared = None if how == "equal" else nn.Parameter(torch.zeros(n_modalities))
        self.own = nn.Parameter(torch.zeros(n_cells, n_modalities)) if how == "cell" else None

    def forward(self, present: Tensor, row: Tensor) -> Tensor:
        """present (cells, modalities), row (cells,) among the fitted cells, or -1 -> weights (cells, modalities)."""
        if self.shared is None:
            logits = torch.zeros(self.n_modalities, device=present.device)
        else:
            logits = self.shared
        if self.own is not None:
            known = (row >= 0) & (row < len(self.own))
            logits = logits + self.own[torch.where(known, row, 0)] * known[:, None]
        return mixture_weights(logits, present)


def mixture_weights(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax over what is present, (cells, modalities): rows sum to one, or to zero where nothing is."""
    logits = torch.where(present, logits, torch.finfo(logits.dtype).min)
    return torch.softmax(logits, dim=1) * present


def mixture(posteriors: Sequence[Normal], weights: Tensor) -> Normal:
    """The posterior of the weighted mean, over (cells, n_latent)."""
    return Normal(
        mixed_mean([q.loc for q in posteriors], weights),
        mixed_variance([q.scale.square() for q in posteriors], weights).sqrt(),
        validate_args=False,
    )


def mixed_mean(means: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The mean of the weighted mean, (cells, n_latent)."""
    return _sum_over_modalities(means, weights)


def mixed_variance(variances: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The variance of the weighted mean, (cells, n_latent); one where nothing was measured."""
    nothing = (weights.sum(1, keepdim=True) == 0).to(weights.dtype)
    return _sum_over_modalities(variances, weights.square()) + nothing


def _sum_over_modalities(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """What is not there is left out, not multiplied by zero."""
    parts = zip(values, weights.split(1, dim=1), strict=True)
    total = sum(torch.where(weight > 0, weight * value, 0.0) for value, weight in parts)
    assert isinstance(total, Tensor)
    return total


def disagreement(penalty: Penalty, posteriors: Sequence[Normal], present: Tensor) -> Tensor | None:
    """The sum over pairs of modalities that were both measured in a cell, (cells,); None where none is wanted."""
    if penalty == "none":
        return None
    between: Callable[[Normal, Normal], Tensor] = {"Jeffreys": jeffreys, "MMD": distance_of_means}[penalty]
    total = torch.zeros_like(present[:, 0], dtype=posteriors[0].loc.dtype)
    for i, j in combinations(range(len(posteriors)), 2):
        both = present[:, i] & present[:, j]
        total = total + torch.where(both, between(posteriors[i], posteriors[j]), 0.0)
    return total


def jeffreys(p: Normal, q: Normal) -> Tensor:
    """KL(p || q) + KL(q || p), (cells,)."""
    return priors.divergence(p, q) + priors.divergence(q, p)


def distance_of_means(p: Normal, q: Normal) -> Tensor:
    """The maximum mean discrepancy of two posteriors with a linear kernel, (cells,): how far apart their means are."""
    distance: Tensor = torch.linalg.vector_norm(p.loc - q.loc, dim=1)
    return distance
