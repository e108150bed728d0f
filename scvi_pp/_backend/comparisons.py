"""Populations compared by draws of what their cells express: all pairs of them from one set of draws.

A stratum is a set of cells of which equally many draws are made, in the same order of batches. A population is a
stratum, or several of them in proportion to their cells; its draws are then taken from theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scvi_pp._backend import differential, kernels
from scvi_pp._backend.crew import FEWEST_ROWS, crew, working_together
from scvi_pp._backend.population import PARTICLES, drawn_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scvi_pp._backend.query import Posterior

# entries of the expression of all draws that are held at a time: 1.6 GB
MOST_ENTRIES = 400_000_000
GENES_AT_ONCE = 64  # whose draws stay in a processor's cache while a pair is looked at


@dataclass(frozen=True)
class Pair:
    """Two populations, by their strata."""

    first: tuple[int, ...]
    second: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """What is to be known of each pair."""

    mode: Literal["change", "vanilla"] = "change"
    as_difference: bool = False  # of probabilities, rather than the log of the ratio
    delta: float | None = 0.25  # None: from the data
    pseudocount: float | None = None  # None: from the data
    n_samples: int = 5000
    weighted: bool = False
    intervals: tuple[float, ...] = ()
    every_statistic: bool = True


@dataclass(frozen=True)
class Answer:
    """Of each pair and gene, (pairs, genes): every statistic by name; the least change of each pair, and the pseudocount."""

    statistics: dict[str, np.ndarray]
    deltas: list[float]
    pseudocount: float


class Strata:
    """Which cells are in which stratum, and the batches that all are looked at in (None: each cell's own)."""

    def __init__(self, rows: Sequence[np.ndarray], batches: Sequence[int] | None = None) -> None:
        self.rows, self.batches = list(rows), None if batches is None else list(batches)
        self.sizes = np.array([len(each) for each in rows], dtype=np.float64)

    def draws_of_each(self, n_samples: int) -> int:
        """The number of draws from a stratum: at least that many, equally many in each batch."""
        n_batches = len(self.batches or [0])
        return -(-n_samples // n_batches) * n_batches

    def drawn(self, n_samples: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Cells by chance, stratum by stratum, and the batch of each draw."""
        n = self.draws_of_each(n_samples)
        rows = np.concatenate([random.choice(each, n) for each in self.rows])
        if self.batches is None:
            return rows, None
        return rows, np.tile(np.repeat(self.batches, n // len(self.batches)), len(self.rows))

    def places(self, population: tuple[int, ...], n_samples: int, random: np.random.Generator) -> slice | np.ndarray:
        """Where the draws of a population are among all: of several strata as many of each as it has of the cells."""
        n = self.draws_of_each(n_samples)
        if len(population) == 1:
            return slice(population[0] * n, (population[0] + 1) * n)
        shares = self.sizes[list(population)]
        stratum = random.choice(population, n, p=shares / shares.sum())
        in_batch = n // len(self.batches or [0])
        return stratum * n + np.arange(n) // in_batch * in_batch + random.integers(in_batch, size=n)

    def mean(self, of_strata: np.ndarray, population: tuple[int, ...]) -> np.ndarray:
        """The mean over a population from those over strata, (strata, genes) -> (genes,)."""
        shares = self.sizes[list(population)]
        found: np.ndarray = shares @ of_strata[list(population)] / shares.sum()
        return found


def compare(
    posterior: Posterior,
    strata: Strata,
    pairs: Sequence[Pair],
    question: Question,
    mean_counts: np.ndarray,
    *,
    seed: int,
) -> Answer:
    """Every statistic of every pair.

    `mean_counts` (strata, genes) are what was measured: by them genes that are as good as unseen are found, from which
    the pseudocount is taken.
    """
    random = np.random.default_rng(seed)
    rows, batches = strata.drawn(question.n_samples, random)
    sides = [
        tuple(strata.places(side, question.n_samples, random) for side in (pair.first, pair.second)) for pair in pairs
    ]
    n_genes = posterior.n_features
    width = max(1, min(n_genes, MOST_ENTRIES // len(rows)))
    blocks = [np.arange(start, min(start + width, n_genes)) for start in range(0, n_genes, width)]

    def drawn(columns: np.ndarray) -> np.ndarray:
        wanted = None if len(columns) == n_genes else columns
        return drawn_expression(posterior, rows, batches, columns=wanted, weighted=question.weighted)

    run = _Run(strata, pairs, sides, question, n_genes)
    n_entries = n_genes * len(rows) * (PARTICLES if question.weighted else 1)
    with kernels.use_for(max(n_entries, posterior.n_entries)), working_together(FEWEST_ROWS * 64):
        held = drawn(blocks[0]) if len(blocks) == 1 else None  # drawn once if all of it can be held
        pseudocount = run.pseudocount_from(blocks, held, drawn, mean_counts)
        logs_held = None if held is None else run.take_logs(held, pseudocount, blocks[0])

        def logs(columns: np.ndarray) -> np.ndarray:
            return run.take_logs(drawn(columns), pseudocount, columns) if logs_held is None else logs_held

        deltas = [question.delta or 0.0] * len(pairs)
        if question.mode == "change" and question.delta is None:
            means = np.concatenate([run.mean_changes(logs(columns)) for columns in blocks], axis=1)
            deltas = [differential.delta_from(mean, seed=seed) for mean in means]
        parts = [run.statistics(logs(columns), deltas) for columns in blocks]
    statistics = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    for number in (1, 2):
        populations = [(pair.first, pair.second)[number - 1] for pair in pairs]
        statistics[f"scale{number}"] = np.array([strata.mean(run.scales, population) for population in populations])
    return Answer(statistics, deltas, pseudocount)


class _Run:
    def __init__(
        self, strata: Strata, pairs: Sequence[Pair], sides: Sequence[Any], question: Question, n_genes: int
    ) -> None:
        self.strata, self.pairs, self.sides, self.question = strata, pairs, sides, question
        self.n = strata.draws_of_each(question.n_samples)
        self.scales = np.empty((len(strata.rows), n_genes))  # mean expression

    def pseudocount_from(
        self,
        blocks: Sequence[np.ndarray],
        held: np.ndarray | None,
        drawn: Callable[[np.ndarray], np.ndarray],
        mean_counts: np.ndarray,
    ) -> float:
        """One for all pairs: a share of the largest of the populations' artefact levels."""
        if self.question.mode == "vanilla" or self.question.as_difference:
            return 0.0
        if self.question.pseudocount is not None:
            return self.question.pseudocount
        populations = sorted({side for pair in self.pairs for side in (pair.first, pair.second)})
        means = np.array([self.strata.mean(mean_counts, population) for population in populations])
        rare = np.flatnonzero((means < differential.RARE_COUNT).any(0))
        largest = np.zeros((len(self.strata.rows), mean_counts.shape[1]), dtype=np.float32)
        for columns in blocks:
            wanted = np.intersect1d(columns, rare, assume_unique=True)
            if not len(wanted):
                continue
            expression = drawn(wanted) if held is None else held[wanted]
            largest[:, wanted] = expression.reshape(len(wanted), -1, self.n).max(2).T
        levels = [
            differential.artefact_level(largest[list(population)].max(0), mean)
            for population, mean in zip(populations, means, strict=True)
        ]
        return max(differential.SMALLEST_PSEUDOCOUNT, differential.PSEUDOCOUNT_SHARE * max(levels))

    def take_logs(self, expression: np.ndarray, pseudocount: float, columns: np.ndarray) -> np.ndarray:
        """Keep the means of the strata; turn expression (genes, draws) in place into what changes are differences of."""
        as_logs = self.question.mode == "change" and not self.question.as_difference

        def some(genes: slice) -> None:
            here = expression[genes]
            self.scales[:, columns[genes]] = here.reshape(len(here), -1, self.n).mean(2).T
            if as_logs:
                here += np.float32(pseudocount)
                np.log2(here, out=here)

        _each_few(len(expression), some)
        return expression

    def mean_changes(self, logs: np.ndarray) -> np.ndarray:
        """Of each pair and gene."""
        return np.array([logs[:, first].mean(1) - logs[:, second].mean(1) for first, second in self.sides])

    def statistics(self, logs: np.ndarray, deltas: Sequence[float]) -> dict[str, np.ndarray]:
        """All that is said of some genes, (pairs, genes)."""
        parts: dict[int, dict[str, np.ndarray]] = {}

        def some(genes: slice) -> None:
            here = logs[genes]
            of_pairs = [
                self._of_pair(here[:, first], here[:, second], delta)
                for (first, second), delta in zip(self.sides, deltas, strict=True)
            ]
            parts[genes.start] = {name: np.array([each[name] for each in of_pairs]) for name in of_pairs[0]}

        _each_few(len(logs), some)
        ordered = [parts[start] for start in sorted(parts)]
        return {name: np.concatenate([part[name] for part in ordered], axis=1) for name in ordered[0]}

    def _of_pair(self, a: np.ndarray, b: np.ndarray, delta: float) -> dict[str, np.ndarray]:
        """Statistics over draws, by gene."""
        if self.question.mode == "vanilla":
            return {"proba_m1": (a > b).mean(1)}
        change = a - b
        found: dict[str, np.ndarray] = {}
        if self.question.every_statistic:
            found |= {f"lfc_{name}": values for name, values in differential.moments(change).items()}
        else:
            found["lfc_mean"] = change.mean(1)
        for level in self.question.intervals:
            ends = differential.narrowest_interval(change, level)
            found |= {f"lfc_confidence_interval_{level:g}_{end}": ends[i] for i, end in enumerate(("min", "max"))}
        found["up"], found["down"] = differential.directions(change, delta)
        return found


def _each_few(n_genes: int, work: Callable[[slice], None]) -> None:
    """Call `work` with a few genes at a time, over all threads."""
    starts = range(0, n_genes, GENES_AT_ONCE)
    crew().each(len(starts), lambda number: work(slice(starts[number], min(starts[number] + GENES_AT_ONCE, n_genes))))
