"""How well groups of cells mix in a latent space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

MOST_CELLS = 5000  # that are looked at: enough for two digits
NEIGHBORS = 20


def mixing_score(latent: npt.NDArray[np.float32], groups: npt.NDArray[np.int64], *, seed: int = 0) -> dict[int, float]:
    """For each group the share of its cells' neighbours that are of other groups, by what chance would give.

    1 where the groups lie as one, 0 where the group is an island. A group that makes up everything has no score.
    """
    rows = np.random.default_rng(seed).permutation(len(latent))[:MOST_CELLS]
    latent, groups = latent[rows], groups[rows]
    n_neighbors = min(NEIGHBORS, len(rows) - 1)
    if n_neighbors < 1:
        return {}
    _, near = cKDTree(latent).query(latent, k=n_neighbors + 1)
    others = groups[near[:, 1:]] != groups[:, None]  # (cells, neighbours), the cell itself left out
    scores = {}
    for group in np.unique(groups):
        members = groups == group
        expected = 1 - (members.sum() - 1) / (len(rows) - 1)
        if expected > 0:
            scores[int(group)] = float(min(1.0, others[members].mean() / expected))
    return scores
