"""How cells lie among those of a reference, in one latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_CELLS = 50_000  # of the reference that are compared with
# of 5, 15 and 30 what tells types that a reference lacks from others best (docs/benchmarks.md)
NEIGHBORS = 30


def mapping_confidence(
    reference: npt.NDArray[np.float32], query: npt.NDArray[np.float32], *, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return for each cell of the query the share of the reference's that lie at least as far from others, (n_query,).

    Far is the mean distance to the nearest cells of the reference. Of cells like those of the reference the shares are
    spread evenly from 0 to 1: each is a conformal p-value (Vovk et al. 2005) of being one of them.
    """
    if len(reference) > MOST_CELLS:
        reference = reference[np.sort(np.random.default_rng(seed).choice(len(reference), MOST_CELLS, replace=False))]
    n_neighbors = min(NEIGHBORS, len(reference) - 1)
    if n_neighbors < 1:
        return np.ones(len(query))
    near = NearestNeighbors(n_neighbors=n_neighbors).fit(reference)
    own = np.sort(near.kneighbors()[0].mean(1))
    n_farther = len(own) - np.searchsorted(own, near.kneighbors(query)[0].mean(1), side="left")
    shares: npt.NDArray[np.float64] = (n_farther + 1) / (len(own) + 1)
    return shares
