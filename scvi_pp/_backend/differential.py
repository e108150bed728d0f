"""How two populations of cells differ, gene by gene, from paired draws of what each expresses.

Arrays are (genes, draws). With a_i and b_i the expression in draw i of the first and the second population, the change is

    r_i = log2(a_i + c) - log2(b_i + c)      or a_i - b_i of probabilities

positive where the first is higher. A gene is said to differ if |r| is at least delta, with the larger of the
probabilities of the two directions (Boyeau et al. 2019).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

SMALLEST_PSEUDOCOUNT = 1e-10
RARE_COUNT = 0.01  # mean count below which a gene is as good as unseen
ARTEFACT_QUANTILE = 0.9
# of that level the pseudocount: with more power is lost, with less false discoveries exceed their target (a study in
# docs/benchmarks.md)
PSEUDOCOUNT_SHARE = 1 / 30
TINY = 1e-8  # keeps log odds of 0 and 1 finite
SMALLEST_DELTA = 0.1


def artefact_level(largest: Array, mean_counts: Array) -> float:
    """Return how high genes are drawn that are as good as unseen: what the draws cannot tell from nothing.

    `largest` is the maximum over draws and `mean_counts` the mean count of each gene in the same cells; 0 if every gene
    is seen.
    """
    rare = mean_counts < RARE_COUNT
    return float(np.quantile(largest[rare], ARTEFACT_QUANTILE)) if rare.any() else 0.0


class Directions(NamedTuple):
    """Probabilities, of each gene, that the change is at least delta upwards, and beyond it downwards."""

    up: Array
    down: Array

    @property
    def either(self) -> Array:
        """That of the likelier of the two."""
        return np.maximum(self.up, self.down)


def directions(change: Array, delta: float) -> Directions:
    """Return the shares of draws."""
    return Directions((change >= delta).mean(1), (change < -delta).mean(1))


def log_odds(probability: Array) -> Array:
    """Return ln p / (1 - p), the natural log of the Bayes factor at even prior odds; finite for 0 and 1."""
    odds: Array = np.log(probability + TINY) - np.log(1 - probability + TINY)
    return odds


def moments(change: Array) -> dict[str, Array]:
    """Return mean, median, standard deviation, minimum and maximum over draws, of each gene."""
    n = change.shape[1]
    middle = np.partition(change, (n - 1) // 2 if n % 2 else (n // 2 - 1, n // 2), axis=1)
    median = middle[:, (n - 1) // 2 : n // 2 + 1].mean(1)
    mean = change.mean(1)
    return {
        "mean": mean,
        "median": median,
        "std": np.sqrt(np.square(change - mean[:, None]).mean(1)),
        "min": change.min(1),
        "max": change.max(1),
    }


def narrowest_interval(change: Array, level: float) -> tuple[Array, Array]:
    """Return the ends of the narrowest interval that holds that share of the draws, of each gene."""
    ordered = np.sort(change, axis=1)
    n = ordered.shape[1]
    steps = min(int(np.floor(level * n)), n - 1)
    widths = ordered[:, steps:] - ordered[:, : n - steps]
    first = widths.argmin(1)
    rows = np.arange(len(ordered))
    return ordered[rows, first], ordered[rows, first + steps]


class Called(NamedTuple):
    """Which genes are said to differ, and the expected false discovery rate of a list that ends with each."""

    is_called: npt.NDArray[np.bool_]
    expected_fdr: Array


def called(probability: Array, fdr_target: float) -> Called:
    """Call the longest list, from the likeliest gene on, whose expected share of false ones is at most the target.

    A gene of unknown probability (NaN) is not called, and counts in no rate.
    """
    n_known = int(np.isfinite(probability).sum())
    order = np.argsort(-probability, kind="stable")[:n_known]  # what is unknown comes last
    rates = np.cumsum(1 - probability[order]) / np.arange(1, n_known + 1)
    n_called = int((rates <= fdr_target).sum())
    is_called, expected = np.zeros(len(probability), dtype=bool), np.full(len(probability), np.nan)
    is_called[order[:n_called]], expected[order] = True, rates
    return Called(is_called, expected)


def delta_from(mean_change: Array, *, seed: int) -> float:
    """Return a least change from the data: six tenths of the way from the unchanged to the changed genes.

    Mean changes are taken as a mixture of three normal distributions: down, unchanged and up.
    """
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(3, random_state=seed).fit(np.asarray(mean_change, dtype=np.float64)[:, None])
    means = np.sort(mixture.means_[:, 0])
    return float(max(SMALLEST_DELTA, 0.6 * (abs(means[0]) + abs(means[-1])) / 2))
