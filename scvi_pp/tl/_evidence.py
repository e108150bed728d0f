"""What a fitted model says of the comparisons of a design, and what was counted: by cells in which it was measured.

An imputed value is no evidence. A cell without a modality tells nothing of it, and a batch whose panel lacks a protein
tells nothing of that protein.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scvi_pp import _logging
from scvi_pp._errors import InputError, listing
from scvi_pp.tl._comparisons import FEWEST_CELLS, Design

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scvi_pp._fitted_model import FittedModel
    from scvi_pp.tl._differential import Asked

PER_CELL = 1e4  # what counts of a cell are scaled to for raw_normalized_mean
FEWEST_FOR_OUTLIERS = 10  # cells of a group in which a tenth can be found odd

Columns = dict[str, np.ndarray]  # (features,) each


@dataclass(frozen=True)
class Evidence:
    """Of each comparison: statistics of the model, and means of what was counted. NaN where nothing can be said."""

    statistics: list[Columns]
    counted: list[Columns]


def evidence(model: FittedModel, design: Design, asked: Asked, seed: int, *, as_difference: bool) -> Evidence:
    """Of all features of the model: those that the same cells have together."""
    if asked.weights == "importance" and model.counts != "counts":
        raise InputError("weights='importance' is not there for models of several modalities. Leave it out.")
    n_features = len(model.features)
    whole = Evidence([{} for _ in design.comparisons], [{} for _ in design.comparisons])
    lacking: list[str] = []
    _of_measured(model, design, model.measured()[1], np.arange(n_features))  # refuses groups without the modality
    for has, columns in _measured_together(model):
        some = _of_measured(model, design, has, columns)
        found = _of_design(model, some, columns, asked, seed, as_difference=as_difference) if some.comparisons else {}
        left_out = [each.name for each in design.comparisons if each.name not in found]
        if left_out:
            lacking.append(f"{listing([model.features[column] for column in columns])} ({listing(left_out)})")
        for number, comparison in enumerate(design.comparisons):
            parts = zip(
                (whole.statistics[number], whole.counted[number]), found.get(comparison.name, ({}, {})), strict=True
            )
            for into, some_features in parts:
                for name, values in some_features.items():
                    into.setdefault(name, np.full(n_features, np.nan))[columns] = values
    if lacking:
        _logging.warning(
            f"Measured in too few cells of a group, and without an answer there: {'; '.join(lacking)}. An imputed value "
            "is no evidence."
        )
    return _filled(whole, n_features, model)


def _filled(whole: Evidence, n_features: int, model: FittedModel) -> Evidence:
    """The same with every statistic of every comparison, NaN where none was taken."""
    parts = []
    for of_comparisons in (whole.statistics, whole.counted):
        names = list(dict.fromkeys(name for each in of_comparisons for name in each))
        parts.append([{name: each.get(name, np.full(n_features, np.nan)) for name in names} for each in of_comparisons])
    if not any(whole.statistics):
        raise InputError(f"In no comparison have both sides {FEWEST_CELLS} cells in which {model.kind} were measured.")
    return Evidence(*parts)


def _measured_together(model: FittedModel) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which cells have which features: masks over cells, and the features that just these have."""
    counts, present = model.measured()
    panel = model.panel()
    if panel is None:
        yield present, np.arange(counts.shape[1])
        return
    _, first, batch = np.unique(model.arrays.batch, return_index=True, return_inverse=True)
    kinds, kind = np.unique(panel[first], axis=1, return_inverse=True)  # a panel is that of a batch
    for number, has in enumerate(kinds.T):
        yield present & has[batch], np.flatnonzero(kind.ravel() == number)


def _of_measured(model: FittedModel, design: Design, has: np.ndarray, columns: np.ndarray) -> Design:
    """The design without cells that lack the features; comparisons that it then cannot make are left out.

    If it is the modality that is not there, that is an error.
    """
    rows = [each[has[each]] for each in design.rows]
    possible = []
    for comparison in design.comparisons:
        sides = ((comparison.group1, comparison.first), (comparison.group2, comparison.second))
        few = {name: n for name, strata in sides if (n := sum(len(rows[each]) for each in strata)) < FEWEST_CELLS}
        if not few:
            possible.append(comparison)
        elif len(columns) == len(model.features):
            ((name, n), *_) = few.items()
            msg = f"Of '{name}' {n} cells have {model.kind} that were measured, too few for {comparison.name}."
            raise InputError(f"{msg} Leave that group out.")
    kept = [number for number, each in enumerate(rows) if len(each)]
    new = {old: number for number, old in enumerate(kept)}

    def without_empty(strata: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new[stratum] for stratum in strata if stratum in new)

    comparisons = [
        replace(each, first=without_empty(each.first), second=without_empty(each.second)) for each in possible
    ]
    return Design([rows[number] for number in kept], comparisons)


def _of_design(
    model: FittedModel, design: Design, columns: np.ndarray, asked: Asked, seed: int, *, as_difference: bool
) -> dict[str, tuple[Columns, Columns]]:
    """By the name of the comparison, what the model says of some features and what was counted of them."""
    from scvi_pp._backend.comparisons import Pair, Question, Strata, compare

    counted = _Counted(model, design)
    rows = _without_outliers(model, design, seed) if asked.filter_outlier_cells else design.rows
    question = Question(
        mode=asked.mode,
        as_difference=as_difference,
        delta=asked.delta,
        pseudocount=asked.pseudocount,
        n_samples=asked.n_samples,
        weighted=asked.weights == "importance",
        intervals=asked.intervals,
        every_statistic=asked.all_stats,
    )
    # what others count does not say which of these are as good as unseen
    means = np.full((len(design.rows), len(model.features)), np.inf)
    means[:, columns] = counted.means[:, columns]
    pairs = [Pair(each.first, each.second) for each in design.comparisons]
    answer = compare(model.posterior, Strata(rows, _batches(model, asked)), pairs, question, means, seed=seed)
    found = {}
    for number, comparison in enumerate(design.comparisons):
        statistics = {name: values[number][columns] for name, values in answer.statistics.items()}
        statistics["delta"] = np.full(len(columns), answer.deltas[number])
        statistics["pseudocount"] = np.full(len(columns), answer.pseudocount)
        of_counts = counted.columns(comparison.first, comparison.second) if asked.all_stats else {}
        if model.kind == "regions":
            of_counts = _as_of_regions(of_counts)
        found[comparison.name] = (statistics, {name: values[columns] for name, values in of_counts.items()})
    return found


def _as_of_regions(counted: Columns) -> Columns:
    """Shares of cells alone, under the names that are usual for chromatin."""
    if not counted:
        return {}
    emp_prob1, emp_prob2 = counted["non_zeros_proportion1"], counted["non_zeros_proportion2"]
    return {"emp_prob1": emp_prob1, "emp_prob2": emp_prob2, "emp_effect": emp_prob1 - emp_prob2}


class _Counted:
    """What was counted in each stratum, beside what the model says."""

    def __init__(self, model: FittedModel, design: Design) -> None:
        from scipy.sparse import csr_matrix

        counts, _ = model.measured()
        stratum = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(design.rows)])
        cells = np.concatenate(design.rows)
        shape = (len(design.rows), counts.shape[0])
        member = csr_matrix((np.ones(len(cells), np.float32), (stratum, cells)), shape=shape)
        totals = np.asarray(counts.sum(1)).ravel()
        scaled = csr_matrix(
            (member.data * (PER_CELL / np.maximum(totals, 1))[member.indices], member.indices, member.indptr),
            shape=shape,
        )
        seen = csr_matrix((np.ones(counts.nnz, np.float32), counts.indices, counts.indptr), shape=counts.shape)
        self.n_cells = np.bincount(stratum, minlength=len(design.rows)).astype(float)
        self._sums = {
            "raw_mean": (member @ counts).toarray().astype(np.float64),
            "non_zeros_proportion": (member @ seen).toarray().astype(np.float64),
            "raw_normalized_mean": (scaled @ counts).toarray().astype(np.float64),
        }

    @property
    def means(self) -> np.ndarray:
        """Mean counts, (strata, features)."""
        found: np.ndarray = self._sums["raw_mean"] / self.n_cells[:, None]
        return found

    def columns(self, first: Sequence[int], second: Sequence[int]) -> Columns:
        """Means and shares of cells on both sides."""
        found = {}
        for name, sums in self._sums.items():
            for number, side in ((1, list(first)), (2, list(second))):
                found[f"{name}{number}"] = sums[side].sum(0) / self.n_cells[side].sum()
        return found


def _batches(model: FittedModel, asked: Asked) -> list[int] | None:
    """The codes of the batches that all cells are looked at in; None leaves each in its own."""
    if not asked.batch_correction:
        return None
    source: Any = model.stored.sources["batch"]
    if not source.keys:
        raise InputError("batch_correction=True needs a model that was fitted with batch_key.")
    return model.batches(asked.batches) if asked.batches is not None else list(range(len(source.levels)))


def _without_outliers(model: FittedModel, design: Design, seed: int) -> list[np.ndarray]:
    """The cells of each stratum but the tenth that lies farthest from its middle in the latent space."""
    from sklearn.covariance import EllipticEnvelope

    latent = model.posterior.latent_mean()
    kept = []
    for rows in design.rows:
        if len(rows) <= max(FEWEST_FOR_OUTLIERS, latent.shape[1]):
            kept.append(rows)
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # of small steps backwards in its search
                kept.append(rows[EllipticEnvelope(random_state=seed).fit_predict(latent[rows]) == 1])
        except ValueError:  # the cells lie on top of each other in some direction: none of them is odd
            kept.append(rows)
    return kept
