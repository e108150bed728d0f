"""Tests between populations of cells: from a design to a table, and to the entry of `uns` that scanpy reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from mudata import MuData

from scvi_pp import _logging
from scvi_pp._data.read import check_annotated
from scvi_pp._data.write import check_any_writable, check_key, write_to_cells
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import modality_of, names_in_one_table, open_models
from scvi_pp.get._options import checked_count, checked_flag, is_number
from scvi_pp.tl._comparisons import Design, by_column, of_cells
from scvi_pp.tl._evidence import evidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvi_pp._fitted_model import FittedModel
    from scvi_pp.tl._evidence import Evidence

Mode = Literal["change", "vanilla"]
Weights = Literal["uniform", "importance"]


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
    mod: str | Sequence[str] | None,
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
    models = open_models(adata, key, verb=verb, mod=mod, seed=seed, keep_arrays=True)
    model, kinds = next(iter(models.values())), [each.kind for each in models.values()]
    if as_accessibility and model.kind != "regions":
        raise InputError(
            f"{verb} is for models of chromatin: uns['{model.key}'] models {model.kind}. Use tl.differential_expression."
        )
    if len(kinds) > 1 and "regions" in kinds:
        others = kinds[kinds[0] == "regions"]
        raise InputError(
            f"mod lists regions beside {others}. Test regions by themselves: tl.differential_accessibility."
        )
    as_difference = as_accessibility and _gives_probabilities(model)
    table, found = _table(models, design, asked, seed, as_difference=as_difference)
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
    said = {"within": within, "mod": mod if mod is None or isinstance(mod, str) else ", ".join(models)}
    params |= {name: value for name, value in said.items() if value is not None}
    entry = {"params": params, **_as_scanpy_has_it(table, design), "statistics": table}
    write_to_cells(adata, uns={key_added: entry})
    _report(verb, table, asked, key_added, " and ".join(kinds))


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
    models: dict[str, FittedModel], design: Design, asked: Asked, seed: int, *, as_difference: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every statistic of every comparison and feature, a row for each; and what was taken from the data."""
    parts = {mod: evidence(model, design, asked, seed, as_difference=as_difference) for mod, model in models.items()}
    features = names_in_one_table({mod: model.features for mod, model in models.items()})
    of_regions = any(model.kind == "regions" for model in models.values())
    tables = []
    for number, comparison in enumerate(design.comparisons):
        columns = _columns(_together([part.statistics[number] for part in parts.values()]), asked, as_difference)
        if of_regions:
            columns = _as_of_regions(columns, as_difference=as_difference)
        columns |= _together([part.counted[number] for part in parts.values()])
        table = pd.DataFrame({name: _narrow(values) for name, values in columns.items()}, index=features)
        if len(models) > 1:
            table.insert(0, "modality", np.repeat(list(models), [len(model.features) for model in models.values()]))
        table = table.iloc[np.lexsort((-_signal(table), -table["score"]))]
        table.insert(0, "group", comparison.name)
        table.insert(1, "feature", table.index)
        table["comparison"] = f"{comparison.group1} vs {comparison.group2}"
        table["group1"], table["group2"] = comparison.group1, comparison.group2
        if comparison.within is not None:
            table["within"] = comparison.within
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    for name in ("group", "feature", "modality", "comparison", "group1", "group2", "within"):
        if name in whole:
            whole[name] = pd.Categorical(whole[name], categories=list(dict.fromkeys(whole[name])))
    whole.index = whole.index.astype(str)
    return whole, _taken_from_data(parts, asked, as_difference=as_difference)


def _together(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Columns of one modality after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _taken_from_data(parts: dict[str, Evidence], asked: Asked, *, as_difference: bool) -> dict[str, Any]:
    """The least change and the pseudocount; of several modalities each by name."""
    if asked.mode != "change":
        return {}
    found: dict[str, Any] = {}
    for name in ("delta",) if as_difference else ("delta", "pseudocount"):
        each = {}
        for mod, part in parts.items():
            values = np.array([of_comparison[name] for of_comparison in part.statistics])
            distinct = np.unique(values[np.isfinite(values)])
            each[mod] = float(distinct[0]) if len(distinct) == 1 else np.fmax.reduce(values, axis=1)
        found[name] = each if len(each) > 1 else next(iter(each.values()))
    return found


def _columns(of_pair: dict[str, np.ndarray], asked: Asked, as_difference: bool) -> dict[str, np.ndarray]:
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
        **({} if as_difference else {"pseudocounts": of_pair["pseudocount"]}),
        "delta": of_pair["delta"],
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
