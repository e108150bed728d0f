"""Real counts without a download, recovered from the data set that comes with scanpy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse

from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The stored values are float32 logarithms: the largest departure from a whole number is 0.05, at counts above 80.
# Values that are no counts at all depart by up to 0.5.
TOLERANCE = 0.1
ONE_COUNT = 1e4  # what all of a cell's counts were scaled to, hence the value of one count times the cell's total


def pbmc68k() -> AnnData:
    """700 blood cells with real UMI counts and cell types informed by sorting; no download [Zheng17]_.

    For trying a model, for examples and for tests. scanpy ships these cells log-normalised; as the smallest value
    of each cell is one count, the counts can be recovered, and every call checks that they are whole numbers.

    Returns
    -------
    Annotated data matrix with 700 cells and 765 genes:

    `.X` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        UMI counts.
    `.obs['bulk_labels']` : categorical
        Ten cell types, from the most similar bulk profile of sorted cells.
    `.obs[['n_genes', 'n_counts', 'percent_mito']]`
        Of the whole transcriptome, from before the 765 genes were chosen.
    `.obs[['S_score', 'G2M_score', 'phase', 'louvain']]`
        Cell cycle and clusters, as published with scanpy.
    `.var`
        Statistics from which the genes were chosen, as published with scanpy.

    See Also
    --------
    scanpy.datasets.pbmc68k_reduced : the same cells, scaled, with PCA, UMAP and clusters.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> adata = svp.datasets.pbmc68k()
    >>> adata.shape
    (700, 765)
    >>> int(adata.X.sum())
    486651
    """
    from scanpy.datasets import pbmc68k_reduced  # takes seconds to import

    with warnings.catch_warnings(action="ignore"):  # the file is of an old format, which its reader remarks upon
        published = pbmc68k_reduced()
    totals = published.obs["n_counts"].to_numpy(np.float64)  # (cells,)
    counts = counts_from_logs(sparse.csr_matrix(published.raw.X), totals)
    return AnnData(counts, obs=published.obs.copy(), var=published.var.copy())


def counts_from_logs(logs: sparse.csr_matrix, totals: NDArray[np.float64]) -> sparse.csr_matrix:
    """The counts behind log-normalised values, refused if they are not whole numbers to within rounding."""
    if not (np.diff(logs.indptr).all() and np.isfinite(logs.data).all() and (logs.data > 0).all()):
        raise _changed("a cell is empty, or a value is not above zero")
    cells = np.repeat(np.arange(logs.shape[0]), np.diff(logs.indptr))  # (stored values,)
    shares = np.expm1(logs.data.astype(np.float64))
    one = np.minimum.reduceat(shares, logs.indptr[:-1])  # (cells,)
    whole = np.rint(shares / one[cells])
    # The smallest value alone carries its rounding error into large counts: all values of the cell say it better.
    one = np.bincount(cells, shares * whole) / np.bincount(cells, whole * whole)
    off = np.abs(shares / one[cells] - whole).max()
    if off > TOLERANCE:
        raise _changed(f"values are up to {off:.2f} away from whole numbers")
    if not np.allclose(one * totals, ONE_COUNT, rtol=2e-3):
        raise _changed("the smallest value of a cell is not one count")
    counts = sparse.csr_matrix((whole.astype(np.float32), logs.indices.copy(), logs.indptr.copy()), shape=logs.shape)
    counts.sort_indices()
    return counts


def _changed(finding: str) -> InputError:
    return InputError(
        f"The counts of scanpy.datasets.pbmc68k_reduced() cannot be recovered: {finding}. Its file differs from the one "
        "this was written for. Use datasets.simulate_rna(), or another version of scanpy, and please report it."
    )
