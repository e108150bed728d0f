"""Counts as the generative model makes them, for cells like those that were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from scvi_pp._backend import noise
from scvi_pp._backend.answering import Structured

if TYPE_CHECKING:
    from scvi_pp._backend.query import Posterior


def simulated(
    posterior: Posterior, rows: np.ndarray, batches: np.ndarray | None = None, *, from_prior: bool = False
) -> tuple[csr_matrix, np.ndarray]:
    """Counts of new cells (cells, features), and their latent positions (cells, n_latent).

    Parameters
    ----------
    posterior
        The network and its cells.
    rows
        The cell that each new one takes depth and covariates from, and its latent position from the posterior of.
    batches
        The batch of each new cell, that of its cell by default.
    from_prior
        Take latent positions from the prior instead.
    """
    index = torch.as_tensor(rows, device=posterior.cells.index_device)
    moved = None if batches is None else torch.as_tensor(batches, device=posterior.cells.device)
    positions = np.empty((len(rows), posterior.n_latent), dtype=np.float32)
    size, blocks = posterior.block_size(decoded=True, drawing=True), []
    with posterior.asking():
        for start in range(0, len(rows), size):
            where = slice(start, min(start + size, len(rows)))
            cells = posterior.cells.minibatch(index[where])
            drawn = noise.standard_normal(len(rows), posterior.n_latent, seed=posterior.seed, sample=0, rows=where)
            drawn = drawn.to(posterior.cells.device)
            z, library = posterior.position(cells, drawn, drawing=True)
            if from_prior:
                known = posterior.network
                z = known.latent(known.prior_position(drawn) if isinstance(known, Structured) else drawn)
            if moved is not None:
                cells = cells._replace(batch=moved[where])
            counts = posterior.network.decode(z, library, cells).sample()
            blocks.append(csr_matrix(counts.cpu().numpy()))
            positions[where] = z.cpu().numpy()
    return vstack(blocks, format="csr"), positions
