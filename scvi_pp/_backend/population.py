"""Draws of what populations of cells express: cells by chance, each with a draw of its latent position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvi_pp._backend import noise, priors
from scvi_pp._backend.answering import Explaining, Structured
from scvi_pp._backend.crew import crew

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.query import Posterior

PARTICLES = 25  # draws of a cell's position of which one is taken, where they are weighted


def drawn_expression(
    posterior: Posterior,
    rows: np.ndarray,
    batches: np.ndarray | None = None,
    *,
    columns: np.ndarray | None = None,
    weighted: bool = False,
) -> np.ndarray:
    """Expression at one latent position of each of these cells, float32 (genes, draws).

    Parameters
    ----------
    posterior
        The network and its cells.
    rows
        Which cell each draw is of; cells may come several times, with a position of their own each time.
    batches
        The batch that each draw is decoded in, that of its cell by default.
    columns
        Genes asked for, all by default.
    weighted
        Draw positions from p(z | x) instead of q(z | x), by importance: of some draws from q, one by weights
        p(x, z) / q(z | x), truncated at the root of their number times their mean (Ionides 2008).
    """
    n_features = posterior.n_features if columns is None else len(columns)
    out = np.empty((n_features, len(rows)), dtype=np.float32)
    index = torch.as_tensor(rows, device=posterior.cells.index_device)
    wanted = None if columns is None else torch.as_tensor(columns, device=posterior.cells.device)
    moved = None if batches is None else torch.as_tensor(batches, device=posterior.cells.device)
    draws = _Draws(posterior, len(rows))
    size = posterior.block_size(decoded=True)

    def one(number: int) -> None:
        where = slice(number * size, min((number + 1) * size, len(rows)))
        cells = posterior.cells.minibatch(index[where])
        z = draws.weighted(cells, where) if weighted else draws.plain(cells, where)
        if moved is not None:
            cells = cells._replace(batch=moved[where])
        out[:, where] = posterior.network.expression(z, cells, wanted).t().cpu().numpy()

    with posterior.asking():
        crew().each(-(-len(rows) // size), one)
    return out


class _Draws:
    """Latent positions of draws: the same whatever the blocks are."""

    def __init__(self, posterior: Posterior, n_draws: int) -> None:
        self.network, self.seed, self.device = posterior.network, posterior.seed, posterior.cells.device
        self.n_draws, self.n_latent = n_draws, posterior.n_latent
        self.chance = torch.rand(n_draws, generator=torch.Generator().manual_seed(posterior.seed))

    def plain(self, cells: Any, where: slice) -> Tensor:
        """One from each posterior."""
        q_z = self.network.encode(cells).q_z
        return self.network.latent(q_z.loc + q_z.scale * self._noise(0, where))

    def weighted(self, cells: Any, where: slice) -> Tensor:
        """One of several from each posterior, by how much likelier it is than the posterior has it."""
        encoded = self.network.encode(cells)
        q_z, positions, weights = encoded.q_z, [], []
        for particle in range(PARTICLES):
            position = q_z.loc + q_z.scale * self._noise(particle, where)
            ratio = self._log_prior(position) - q_z.log_prob(position).sum(1)
            library = encoded.library if encoded.q_library is None else encoded.q_library.mean
            weights.append(ratio + self._log_likelihood(self.network.latent(position), library, cells))
            positions.append(position)
        taken = chosen(torch.stack(weights), self.chance[where].to(self.device))
        return self.network.latent(torch.stack(positions)[taken, torch.arange(len(taken), device=self.device)])

    def _log_prior(self, position: Tensor) -> Tensor:
        if isinstance(self.network, Structured):
            return self.network.log_prior(position)
        log_density: Tensor = priors.standard_normal(position).log_prob(position).sum(1)
        return log_density

    def _log_likelihood(self, z: Tensor, library: Tensor, cells: Any) -> Tensor:
        if isinstance(self.network, Explaining):
            return self.network.log_likelihood(z, library, cells)
        return self.network.decode(z, library, cells).log_likelihood(cells.counts)

    def _noise(self, sample: int, where: slice) -> Tensor:
        drawn = noise.standard_normal(self.n_draws, self.n_latent, seed=self.seed, sample=sample, rows=where)
        return drawn.to(self.device)


def chosen(log_weights: Tensor, chance: Tensor) -> Tensor:
    """One particle of each draw, by truncated weights: (particles, draws), (draws,) uniform -> int64 (draws,)."""
    weights = torch.exp(log_weights - log_weights.max(0).values)
    weights = torch.minimum(weights, weights.mean(0) * len(weights) ** 0.5)
    edges = torch.cumsum(weights, 0)
    return (edges < chance * edges[-1]).sum(0).clamp(max=len(weights) - 1)
