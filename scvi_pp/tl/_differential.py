"""Tests between populations of cells: from a design to a table, and to the entry of `uns` that scanpy reads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from mudata import MuData

from scvi_pp import _logging
from scvi_pp._data.read import check_annotated
from scvi_pp._data.write import check_any_writable, check_key, write_to_cells
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import modality_of, open_model
from scvi_pp.get._options import checked_count, checked_flag, is_number
from scvi_pp.tl._comparisons import FEWEST_CELLS, Design, by_column, of_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvi_pp._fitted_model import FittedModel

Mode = Literal["change", "vanilla"]
Weights = Literal["uniform", "importance"]
PER_CELL = 1e4  # what counts of a cell are scaled to for raw_normalized_mean
FEWEST_FOR_OUTLIERS = 10  # cells of a group in which a tenth can be found odd


@dataclass(frozen=True)
class Asked:
    """The options of a test, checked on creation."""

    mode: Mode
    delta: float | None
    pseudocount: float | None
    batch_correction: bool
    batches: object
    weights: Weights
    n_samples: int
    fdr_target: float
    filter_outlier_cells: bool
    intervals: tuple[float, ...]
    all_stats: bool

    def __post_init__(self) -> None:
        for name, allowed in (("mode", ("change", "vanilla")), ("weights", ("uniform", "importance"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r} cannot be. Choose {allowed[0]!r} or {allowed[1]!r}.")
        for name in ("delta", "pseudocount"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 <= value < np.inf):
                raise InputError(f"{name}={value!r} must be a number of at least 0, or None to take it from the data.")
        if not (is_number(self.fdr_target) and 0 < self.fdr_target < 1):
            raise InputError(f"fdr_target={self.fdr_target!r} must be between 0 and 1.")
        for name in ("batch_correction", "filter_outlier_cells", "all_stats"):
            checked_flag(name, getattr(self, name))
        checked_count("n_samples", self.n_samples)
        for level in self.intervals:
            if not (is_number(level) and 0 < level < 1):
                raise InputError(f"credible_intervals holds {level!r}; a level is between 0 and 1, such as 0.9.")
        if self.batches is not None and not self.batch_correction:
            raise InputError("batches says in which batches cells are compared, and needs batch_correction=True.")


def differences(
    adata: AnnData | MuData,
    groupby: str | None,
    *,
    groups: object,
    reference: str,
    cells1: object,
    cells2: object,
    within: str | None,
    key: str | None,
    mod: str | None,
    asked: Asked,
    seed: int,
    key_added: str,
    as_accessibility: bool,
    verb: str,
) -> None:
    """Test, and write the table and what scanpy reads of it into `uns[key_added]`."""
    check_annotated(adata, verb=verb)
    check_any_writable(adata)
    check_key(key_added)
    design = _design(adata, groupby, groups, reference, cells1, cells2, within)
    if as_accessibility and mod is None:
        mod = modality_of(adata.uns, key, "accessibility")
    model = open_model(adata, key, verb=verb, mod=mod, seed=seed, keep_arrays=True)
    is_probability = _gives_probabilities(model)
    if as_accessibility and model.kind != "regions":
        raise InputError(
            f"{verb} is for models of chromatin: uns['{model.key}'] models {model.kind}. Use tl.differential_expression."
        )
    table, found = _table(model, design, asked, seed, as_difference=as_accessibility and is_probability)
    params = {
        "groupby": groupby if groupby is not None else "cells1",
        "reference": reference,
        "method": verb,
        "use_raw": False,
        "corr_method": "expected FDR",
        "model": model.key,
        "mode": asked.mode,
        **found,
        "batch_correction": asked.batch_correction,
        "weights": asked.weights,
        "n_samples": asked.n_samples,
        "fdr_target": asked.fdr_target,
        "seed": seed,
    }
    params |= {name: value for name, value in (("within", within), ("mod", mod)) if value is not None}
    entry = {"params": params, **_as_scanpy_has_it(table, design), "statistics": table}
    write_to_cells(adata, uns={key_added: entry})
    _report(verb, table, asked, key_added, model.kind)


def _design(
    adata: AnnData | MuData,
    groupby: str | None,
    groups: object,
    reference: str,
    cells1: object,
    cells2: object,
    within: str | None,
) -> Design:
    if groupby is None and cells1 is None:
        raise InputError("Name a column of obs, groupby=..., or the cells to compare, cells1=...")
    if groupby is None:
        if within is not None:
            raise InputError("within needs groupby: cells that are pointed out are compared as they are.")
        return of_cells(adata, cells1, cells2)
    if cells1 is not None or cells2 is not None:
        raise InputError("Give groupby, or cells1 and cells2, not both.")
    return by_column(adata, groupby, groups=groups, reference=reference, within=within)


def _gives_probabilities(model: FittedModel) -> bool:
    """Whether the values of the model are chances that regions are open, rather than shares."""
    return model.kind == "regions" and model.stored.model != "poissonvi"


def _table(
    model: FittedModel, design: Design, asked: Asked, seed: int, *, as_difference: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every statistic of every comparison and feature, a row for each; and what was taken from the data."""
    from scvi_pp._backend.comparisons import Pair, Question, Strata, compare

    design = _of_measured(model, design)
    measured = _Measured(model, design)
    rows = _without_outliers(model, design, seed) if asked.filter_outlier_cells else design.rows
    strata = Strata(rows, _batches(model, asked))
    if asked.weights == "importance" and model.counts != "counts":
        raise InputError("weights='importance' is not there for models of several modalities. Leave it out.")
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
    pairs = [Pair(each.first, each.second) for each in design.comparisons]
    answer = compare(model.posterior, strata, pairs, question, measured.means, seed=seed)
    parts = []
    for number, comparison in enumerate(design.comparisons):
        of_pair = {name: values[number] for name, values in answer.statistics.items()}
        columns = _columns(of_pair, asked, answer.deltas[number], answer.pseudocount, as_difference=as_difference)
        if model.kind == "regions":
            columns = _as_of_regions(columns, as_difference=as_difference)
        columns |= measured.columns(
            comparison.first, comparison.second, as_regions=model.kind == "regions", all_stats=asked.all_stats
        )
        part = pd.DataFrame({name: _narrow(values) for name, values in columns.items()}, index=list(model.features))
        part = part.iloc[np.lexsort((-_signal(part), -part["score"]))]
        part.insert(0, "group", comparison.name)
        part.insert(1, "feature", part.index)
        part["comparison"] = f"{comparison.group1} vs {comparison.group2}"
        part["group1"], part["group2"] = comparison.group1, comparison.group2
        if comparison.within is not None:
            part["within"] = comparison.within
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    for name in ("group", "feature", "comparison", "group1", "group2", *(["within"] if "within" in table else [])):
        table[name] = pd.Categorical(table[name], categories=list(dict.fromkeys(table[name])))
    table.index = table.index.astype(str)
    found: dict[str, Any] = {}
    if asked.mode == "change":
        found["delta"] = float(answer.deltas[0]) if len(set(answer.deltas)) == 1 else np.array(answer.deltas)
        found |= {} if as_difference else {"pseudocount": answer.pseudocount}
    return table, found


def _of_measured(model: FittedModel, design: Design) -> Design:
    """The design without cells in which the modality was not measured: an imputed value is no evidence."""
    _, present = model.measured()
    rows = [each[present[each]] for each in design.rows]
    for comparison in design.comparisons:
        for name, strata in ((comparison.group1, comparison.first), (comparison.group2, comparison.second)):
            n = sum(len(rows[stratum]) for stratum in strata)
            if n < FEWEST_CELLS:
                msg = f"Of '{name}' {n} cells have {model.kind} that were measured, too few for {comparison.name}."
                raise InputError(f"{msg} Leave that group out.")
    kept = [number for number, each in enumerate(rows) if len(each)]
    new = {old: number for number, old in enumerate(kept)}

    def without_empty(strata: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new[stratum] for stratum in strata if stratum in new)

    comparisons = [
        replace(each, first=without_empty(each.first), second=without_empty(each.second)) for each in design.comparisons
    ]
    return Design([rows[number] for number in kept], comparisons)


def _columns(
    of_pair: dict[str, np.ndarray], asked: Asked, delta: float, pseudocount: float, *, as_difference: bool
) -> dict[str, np.ndarray]:
    """The statistics of a comparison under the names of the field."""
    from scvi_pp._backend.differential import Directions, called, log_odds

    scale1, scale2 = of_pair["scale1"], of_pair["scale2"]
    if asked.mode == "vanilla":
        first = of_pair["proba_m1"]
        return {
            "score": log_odds(first),
            "proba_m1": first,
            "proba_m2": 1 - first,
            "bayes_factor": log_odds(first),
            "lfc_mean": np.log2(scale1 + 1e-12) - np.log2(scale2 + 1e-12),
            "scale1": scale1,
            "scale2": scale2,
            "posterior_error": np.minimum(first, 1 - first),
            "expected_fdr": called(np.maximum(first, 1 - first), asked.fdr_target).expected_fdr,
        }
    ways = Directions(of_pair["up"], of_pair["down"])
    calls = called(ways.either, asked.fdr_target)
    moments = {name: values for name, values in of_pair.items() if name.startswith("lfc_")}
    if as_difference:
        moments = {name.replace("lfc_", "difference_"): values for name, values in moments.items()}
    return {
        "score": log_odds(ways.up),
        "proba_de": ways.either,
        "proba_not_de": 1 - ways.either,
        "bayes_factor": log_odds(ways.either),
        "scale1": scale1,
        "scale2": scale2,
        **({} if as_difference else {"pseudocounts": np.full(len(scale1), pseudocount)}),
        "delta": np.full(len(scale1), delta),
        **moments,
        f"is_de_fdr_{asked.fdr_target:g}": calls.is_called,
        "posterior_error": 1 - ways.either,
        "expected_fdr": calls.expected_fdr,
    }


def _as_of_regions(columns: dict[str, np.ndarray], *, as_difference: bool) -> dict[str, np.ndarray]:
    """The same under the names that are usual for chromatin."""
    names = {"proba_de": "prob_da", "proba_not_de": "prob_not_da"}
    if as_difference:
        names |= {"scale1": "est_prob1", "scale2": "est_prob2", "difference_mean": "effect_size"}
    return {names.get(name, name).replace("is_de_fdr", "is_da_fdr"): values for name, values in columns.items()}


def _signal(part: pd.DataFrame) -> np.ndarray:
    """By which ties of the score are put into order: change by its scatter."""
    mean = part[_change(part)].to_numpy(dtype=float)
    spread = next((part[name].to_numpy(dtype=float) for name in ("lfc_std", "difference_std") if name in part), None)
    return mean if spread is None else mean / (spread + 1e-8)


def _change(table: pd.DataFrame) -> str:
    """The column of the mean change."""
    return next(name for name in ("lfc_mean", "effect_size", "difference_mean") if name in table)


def _narrow(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.kind == "f" else values


class _Measured:
    """What was counted in each stratum, beside what the model says."""

    def __init__(self, model: FittedModel, design: Design) -> None:
        from scipy.sparse import csr_matrix

        counts, present = model.measured()
        stratum = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(design.rows)])
        cells = np.concatenate(design.rows)
        stratum, cells = stratum[present[cells]], cells[present[cells]]
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
        found: np.ndarray = self._sums["raw_mean"] / np.maximum(self.n_cells, 1)[:, None]
        return found

    def columns(
        self, first: Sequence[int], second: Sequence[int], *, as_regions: bool, all_stats: bool
    ) -> dict[str, np.ndarray]:
        """Means and shares of cells on both sides; NaN on a side in which nothing was measured."""
        if not all_stats:
            return {}
        found = {}
        for name, sums in self._sums.items():
            for number, side in ((1, list(first)), (2, list(second))):
                n = self.n_cells[side].sum()
                found[f"{name}{number}"] = sums[side].sum(0) / n if n else np.full(sums.shape[1], np.nan)
        if not as_regions:
            return found
        emp_prob1, emp_prob2 = found["non_zeros_proportion1"], found["non_zeros_proportion2"]
        return {"emp_prob1": emp_prob1, "emp_prob2": emp_prob2, "emp_effect": emp_prob1 - emp_prob2}


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


def _as_scanpy_has_it(table: pd.DataFrame, design: Design) -> dict[str, Any]:
    """The record arrays of `sc.tl.rank_genes_groups`: a field for each group, features by falling score."""
    wanted = {
        "names": ("feature", "O"),
        "scores": ("score", "float32"),
        "logfoldchanges": (_change(table), "float32"),
        "pvals": ("posterior_error", "float64"),
        "pvals_adj": ("expected_fdr", "float64"),
    }
    groups = [comparison.name for comparison in design.comparisons]
    of_group = dict(tuple(table.groupby("group", observed=True, sort=False)))
    return {
        field: pd.DataFrame({group: of_group[group][column].to_numpy() for group in groups}).to_records(
            index=False, column_dtypes=dtype
        )
        for field, (column, dtype) in wanted.items()
    }


def _report(verb: str, table: pd.DataFrame, asked: Asked, key_added: str, kind: str) -> None:
    n = table["group"].nunique()
    flag = next((name for name in table if name.startswith(("is_de_fdr", "is_da_fdr"))), "")
    called = (
        f", {int(table[flag].sum()):,} {kind} called at an expected FDR of {asked.fdr_target:g}"
        if flag in table
        else ""
    )
    _logging.info(f"{verb}: {n} comparisons{called}. Added uns['{key_added}'].")
