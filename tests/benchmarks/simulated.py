"""Raw counts of any size in seconds, for measurements of speed.

    share_p   ~ normalised base * type effect * Gamma(theta, 1) / theta      profile p of (genes,)
    depth_n   ~ LogNormal(log depth, 0.4)
    count_ng  ~ Poisson(depth_n * share_{p(n), g})

that is, gamma-Poisson counts of cell types, skewed between genes as in real data. Up to `MOST_PROFILES` cells each have
a profile of their own; more cells share these many. `depth` is set so that the asked share of entries is not zero.

The counts of a cell are the points of a Poisson process on the line on which its genes lie one after the other, each as
long as its share: points come in order of genes, so they are written straight into compressed rows, and nothing dense
is made but the profiles.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.sparse import csr_matrix

MOST_PROFILES = 4096
PROFILES_AT_ONCE = 256
N_TYPES = 8
BASE_SD = 1.5  # of the log share of a gene
TYPE_SHARE, TYPE_SD = 0.2, 1.0  # of the genes that differ between types, and of the log of the factor
THETA = 2.0  # median inverse dispersion; the log has a standard deviation of 0.7 over genes
DEPTH_SD = 0.4


def simulated(n_cells: int, n_genes: int, nonzero_share: float, *, seed: int = 0) -> csr_matrix:
    """Counts, float32 CSR (n_cells, n_genes), of which about `nonzero_share` are not zero."""
    random = np.random.default_rng(seed)
    edges = random_edges(min(n_cells, MOST_PROFILES), n_genes, random)
    factor = np.exp(random.normal(0, DEPTH_SD, n_cells))
    depth = factor * depth_for(nonzero_share, edges, factor)
    profile = random.permutation(n_cells) % len(edges)
    n_points = depth.sum()  # expected; no entry can have less than one
    room = int(n_points + 10 * np.sqrt(n_points) + 1000)
    # pages that are never written are never taken: what is reserved too much costs nothing
    columns, values = np.empty(room, np.int32), np.empty(room, np.float32)
    starts = np.zeros(n_cells + 1, np.int64)
    scatter(edges, profile, depth, int(random.integers(2**31)), starts, columns, values)
    used = starts[-1]
    return csr_matrix((values[:used], columns[:used], starts), shape=(n_cells, n_genes))


def random_edges(n_profiles: int, n_genes: int, random: np.random.Generator) -> np.ndarray:
    """Where each gene ends on the line from 0 to 1, a row for each profile, float32 (profiles, genes)."""
    base = np.exp(random.normal(0, BASE_SD, n_genes))
    differs = random.random((N_TYPES, n_genes)) < TYPE_SHARE
    of_type = base * np.exp(random.normal(0, TYPE_SD, (N_TYPES, n_genes)) * differs)  # (types, genes)
    theta = THETA * np.exp(random.normal(0, 0.7, n_genes))
    cell_type = random.integers(N_TYPES, size=n_profiles)
    edges = np.empty((n_profiles, n_genes), np.float32)
    for start in range(0, n_profiles, PROFILES_AT_ONCE):
        block = slice(start, start + PROFILES_AT_ONCE)
        types = cell_type[block]
        reached = (of_type[types] * random.gamma(theta, size=(len(types), n_genes)) / theta).cumsum(1)
        edges[block] = reached / reached[:, -1:]
    edges[:, -1] = 1.0
    return edges


def depth_for(nonzero_share: float, edges: np.ndarray, factor: np.ndarray) -> float:
    """The median number of counts at which so many entries are expected not to be zero, by bisection of its log."""
    shares = np.diff(edges[:32].astype(np.float64), axis=1, prepend=0)
    sample = factor[: len(shares), None]
    low, high = 0.0, np.log(1e9)
    for _ in range(40):
        middle = (low + high) / 2
        enough = -np.expm1(-np.exp(middle) * sample * shares).mean() > nonzero_share
        low, high = (low, middle) if enough else (middle, high)
    return float(np.exp(low))


@numba.njit
def scatter(
    edges: np.ndarray,
    profile: np.ndarray,
    depth: np.ndarray,
    seed: int,
    starts: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
) -> None:
    """Fill the compressed rows."""
    np.random.seed(seed)  # noqa: NPY002 - numba's own generator
    used = 0
    for cell in range(len(depth)):
        line, scale = edges[profile[cell]], 1.0 / depth[cell]
        gene, last = 0, -1
        point = np.random.exponential(scale)  # noqa: NPY002
        while point < 1.0:
            while line[gene] <= point:
                gene += 1
            if gene == last:
                values[used - 1] += 1
            else:
                columns[used], values[used], last = gene, 1, gene
                used += 1
            point += np.random.exponential(scale)  # noqa: NPY002
        starts[cell + 1] = used
