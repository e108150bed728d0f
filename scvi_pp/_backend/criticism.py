"""How counts drawn from a fitted model compare with those that were measured: statistics, and ranks among the draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, vstack

from scvi_pp._backend import noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scvi_pp._backend.query import Posterior

Array = npt.NDArray[np.float64]

RANK_BINS = 200  # of the unit interval; coverage is read off them


class Summary(NamedTuple):
    """Mean, variance, share of zeros and coefficient of variation (standard deviation by mean), of each gene or cell."""

    mean: Array
    variance: Array
    zero_fraction: Array
    cv: Array


class Tally:
    """Sums of counts over cells and over genes, block by block."""

    def __init__(self, n_cells: int, n_genes: int) -> None:
        self._of_genes = np.zeros((4, n_genes))
        self._of_cells = np.zeros((4, n_cells))

    def add(self, where: slice, counts: npt.NDArray[np.floating], known: npt.NDArray[np.bool_]) -> None:
        """Take the counts of some cells, (cells, genes), as far as they are known."""
        counts = np.where(known, counts, 0)
        for number, values in enumerate((counts, np.square(counts, dtype=np.float64), counts > 0, known)):
            self._of_genes[number] += values.sum(0, dtype=np.float64)
            self._of_cells[number, where] = values.sum(1, dtype=np.float64)

    def of_genes(self) -> Summary:
        """Over cells, by gene."""
        return _summary(*self._of_genes)

    def of_cells(self) -> Summary:
        """Over genes, by cell."""
        return _summary(*self._of_cells)


def _summary(total: Array, squares: Array, seen: Array, n: Array) -> Summary:
    """NaN where nothing is known."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        variance = np.maximum(squares / n - mean**2, 0)
        return Summary(mean, variance, 1 - seen / n, np.sqrt(variance) / mean)


@dataclass(frozen=True)
class Comparison:
    """Of measured counts and of draws, the latter as a mean over draws; and how often a rank falls into each bin."""

    measured_genes: Summary
    measured_cells: Summary
    drawn_genes: Summary
    drawn_cells: Summary
    rank_shares: Array  # (RANK_BINS,)

    def coverage(self, level: float) -> float:
        """The share of counts in the central interval of that level; the level itself, were the model true."""
        edge = round((1 - level) / 2 * RANK_BINS)
        return float(self.rank_shares[edge : RANK_BINS - edge].sum())


def compare_with_draws(
    counts: csr_matrix,
    draw: Callable[[slice], Iterator[npt.NDArray[np.floating]]],
    *,
    block: int,
    seed: int,
    known: npt.NDArray[np.bool_] | None = None,
) -> Comparison:
    """Compare counts (cells, genes) with draws of them, as far as they are `known` (cells, genes): None, all of them.

    `draw` gives, for some of the cells, draw after draw (cells, genes). A count's rank among its draws, ties broken by
    chance, is uniform if count and draws are made alike: (draws below + v (draws equal + 1)) / (draws + 1), v uniform.
    """
    random = np.random.default_rng(seed)
    n_cells, n_genes = counts.shape
    measured = Tally(n_cells, n_genes)
    of_draws: list[Tally] = []
    bins = np.zeros(RANK_BINS)
    for start in range(0, n_cells, block):
        where = slice(start, min(start + block, n_cells))
        here = counts[where].toarray()
        known_here = np.ones(here.shape, dtype=bool) if known is None else known[where]
        measured.add(where, here, known_here)
        below, equal, n_draws = np.zeros(here.shape), np.zeros(here.shape), 0
        for number, drawn in enumerate(draw(where)):
            if number == len(of_draws):
                of_draws.append(Tally(n_cells, n_genes))
            of_draws[number].add(where, drawn, known_here)
            below += drawn < here
            equal += drawn == here
            n_draws += 1
        rank = (below + random.random(here.shape) * (equal + 1)) / (n_draws + 1)
        bin_of = np.minimum((rank[known_here] * RANK_BINS).astype(np.int64), RANK_BINS - 1)
        bins += np.bincount(bin_of, minlength=RANK_BINS)
    return Comparison(
        measured.of_genes(),
        measured.of_cells(),
        _mean([tally.of_genes() for tally in of_draws]),
        _mean([tally.of_cells() for tally in of_draws]),
        bins / bins.sum(),
    )


def _mean(summaries: list[Summary]) -> Summary:
    """Over draws; a coefficient of variation that is not defined in some is that of the others."""
    stacked = Summary(*map(np.array, zip(*summaries, strict=True)))
    defined = np.isfinite(stacked.cv)
    cv = np.where(defined, stacked.cv, 0).sum(0) / np.maximum(defined.sum(0), 1)
    cv[~defined.any(0)] = np.nan
    return Summary(stacked.mean.mean(0), stacked.variance.mean(0), stacked.zero_fraction.mean(0), cv)


def whole_draws(posterior: Posterior, rows: npt.NDArray[np.int64], n_samples: int) -> list[csr_matrix]:
    """Posterior predictive draws of these cells as sparse matrices, (cells, genes) each, within `posterior.asking()`."""
    draw, block = predictive_draws(posterior, rows, n_samples), posterior.block_size(decoded=True, drawing=True)
    parts: list[list[csr_matrix]] = [[] for _ in range(n_samples)]
    for start in range(0, len(rows), block):
        for part, drawn in zip(parts, draw(slice(start, min(start + block, len(rows)))), strict=True):
            part.append(csr_matrix(drawn))
    return [vstack(part, format="csr") for part in parts]


def predictive_draws(
    posterior: Posterior, rows: npt.NDArray[np.int64], n_samples: int
) -> Callable[[slice], Iterator[npt.NDArray[np.floating]]]:
    """Posterior predictive draws of these cells, to be asked for within `posterior.asking()`."""
    index = torch.as_tensor(rows, device=posterior.cells.index_device)

    def draw(where: slice) -> Iterator[npt.NDArray[np.floating]]:
        cells = posterior.cells.minibatch(index[where])
        encoded = posterior.network.encode(cells)
        for sample in range(n_samples):
            drawn = noise.standard_normal(len(rows), posterior.n_latent, seed=posterior.seed, sample=sample, rows=where)
            z = posterior.network.latent(encoded.q_z.loc + encoded.q_z.scale * drawn.to(posterior.cells.device))
            library = encoded.library if encoded.q_library is None else encoded.q_library.sample()
            yield posterior.network.decode(z, library, cells).sample().cpu().numpy()

    return draw
