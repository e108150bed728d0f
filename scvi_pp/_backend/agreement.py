"""Whether groups of cells differ in drawn counts by what they differ in measured ones.

Counts x of a cell with total n become log(1 + 10,000 x / n); draws below zero, of a normal likelihood, count as zero. A
group is compared with all other cells: by the difference of means of each gene, and by Welch's t of it, which ranks genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

Array = npt.NDArray[np.float64]

PER_CELL = 1e4
MOST_TOP_GENES = 100  # but at most a tenth of all


class Differences(NamedTuple):
    """Of each group against the others, (groups, genes)."""

    change: Array  # of the mean, in natural logs
    score: Array  # Welch's t


class Agreement(NamedTuple):
    """How the differences of draws are like those of the data, (groups,) each, as a mean over draws."""

    top_genes: Array  # share of the highest ranking genes that are the same
    pearson: Array  # correlation of the changes over genes
    slope: Array  # of the changes of draws over those of the data, by least squares
    error: Array  # mean absolute difference of the changes


def differences(counts: csr_matrix, groups: npt.NDArray[np.int64], n_groups: int) -> Differences:
    """Compare each group of the cells of `counts` (cells, genes) with all others; NaN of a group of none or all."""
    x = _normalised(counts)
    indicator = csr_matrix((np.ones(len(groups)), (groups, np.arange(len(groups)))), shape=(n_groups, len(groups)))
    sums, squares = (indicator @ x).toarray(), (indicator @ x.multiply(x)).toarray()
    n = np.bincount(groups, minlength=n_groups)[:, None].astype(np.float64)
    sides = [_moments(sums, squares, n), _moments(sums.sum(0) - sums, squares.sum(0) - squares, n.sum() - n)]
    (mean, variance), (rest, variance_of_rest) = sides
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(variance / n + variance_of_rest / (n.sum() - n))
        return Differences(mean - rest, np.where(spread > 0, (mean - rest) / spread, 0.0))


def agreement(measured: Differences, drawn: Iterable[Differences]) -> Agreement:
    """Compare what was measured with draw after draw."""
    found = [_of_draw(measured, each) for each in drawn]
    return Agreement(*(np.mean(values, axis=0) for values in zip(*found, strict=True)))


def _of_draw(measured: Differences, drawn: Differences) -> Agreement:
    n_genes = measured.change.shape[1]
    n_top = max(1, min(MOST_TOP_GENES, n_genes // 10))
    same = [
        len(np.intersect1d(np.argsort(-one)[:n_top], np.argsort(-other)[:n_top])) / n_top
        for one, other in zip(measured.score, drawn.score, strict=True)
    ]
    x, y = (each.change - each.change.mean(1, keepdims=True) for each in (measured, drawn))
    with np.errstate(invalid="ignore", divide="ignore"):
        product, square = (x * y).sum(1), (x * x).sum(1)
        pearson = product / np.sqrt(square * (y * y).sum(1))
        return Agreement(np.array(same), pearson, product / square, np.abs(measured.change - drawn.change).mean(1))


def _normalised(counts: csr_matrix) -> csr_matrix:
    x = csr_matrix(counts, dtype=np.float64, copy=True)
    np.maximum(x.data, 0, out=x.data)
    total = np.asarray(x.sum(1)).ravel()
    x.data *= np.repeat(PER_CELL / np.where(total > 0, total, 1.0), np.diff(x.indptr))
    x.data = np.log1p(x.data)
    return x


def _moments(sums: Array, squares: Array, n: Array) -> tuple[Array, Array]:
    """Mean and unbiased variance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / n
        return mean, np.maximum(squares - n * mean**2, 0) / np.maximum(n - 1, 1)
