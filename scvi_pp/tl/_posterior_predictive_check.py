"""Counts drawn from fitted models against those that were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from scvi_pp import _docs, _logging
from scvi_pp._data.columns import groups_of_column
from scvi_pp._data.fitted import model_keys
from scvi_pp._data.multiome import copied, observations
from scvi_pp._data.read import check_annotated
from scvi_pp._data.write import check_any_writable, check_key, write_to_cells
from scvi_pp._errors import InputError, MissingKeyError
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from scvi_pp._backend.criticism import Comparison, Summary
    from scvi_pp._seed import Seed

LEVELS = np.arange(1, 10) / 10  # of the intervals whose coverage makes the calibration error
MEASURED = "measured"
FEWEST_CELLS = 2  # of a group, and of the others
MOST_DRAWS = 5  # of all cells, by which groups are compared


@_docs.documented(MOD=_docs.MOD, RANDOM=_docs.RANDOM)
def posterior_predictive_check(
    adata: AnnData | MuData,
    keys: Sequence[str] | str | None = None,
    *,
    groupby: str | None = None,
    mod: str | None = None,
    n_samples: int = 25,
    n_cells: int | None = 1000,
    key_added: str = "posterior_predictive_check",
    rng: Seed = None,
    random_state: Seed = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Compare counts that fitted models draw with those that were measured.

    Draws from a model that fits have the means, variances and zeros of the data, gene by gene and cell by cell, and
    the measured counts lie among them as one more draw would. Use it to choose a likelihood, to see which genes a model
    does not explain, or to compare models.

    Parameters
    ----------
    adata
        The object the models were fitted to.
    keys
        Names of fitted models in `adata.uns`; all by default.
    groupby
        Column of `.obs` with groups, such as cell types: then it is also looked at whether these differ in the draws by
        what they differ in the data.
    {MOD}
    n_samples
        Draws of the counts of each cell.
    n_cells
        At most so many cells are looked at, the same for all models, by chance; `None` for all.
    key_added
        Where in `.uns` the results go.
    {RANDOM}
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following field:

    `.uns['posterior_predictive_check' | key_added]` : :class:`dict`
        Tables, see :func:`~scvi_pp.get.posterior_predictive_check`: `'summary'`, a row for each model; `'genes'` and
        `'cells'`, with the statistics of the measured counts and of each model's; `'coverage'`; with `groupby`
        `'groups'`; `'params'`.

    Raises
    ------
    MissingKeyError
        A model or a column is not there. The object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.posterior_predictive_check(adata, n_samples=5, n_cells=100)
    >>> svp.get.posterior_predictive_check(adata).index.to_list()
    ['scvi']
    """
    check_annotated(adata, verb="tl.posterior_predictive_check")
    if copy:
        adata = copied(adata)
    check_any_writable(adata)
    check_key(key_added)
    draws = checked_count("n_samples", n_samples)
    most = adata.n_obs if n_cells is None else checked_count("n_cells", n_cells)
    seed = seed_from(rng, random_state)
    names = _names(adata, keys)
    groups = None if groupby is None else _groups(adata, groupby)
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    found: dict[str, tuple[Comparison, list[str], pd.Index]] = {}
    of_groups: list[pd.DataFrame] = []
    for name in names:
        model = open_model(adata, name, verb="tl.posterior_predictive_check", mod=mod, seed=seed, keep_arrays=True)
        counts, present = model.measured()
        rows = np.sort(order[present[order]][:most])
        panel = model.panel()
        known = None if panel is None else panel[rows]
        found[name] = (
            _comparison(model.posterior, counts[rows], rows, known, draws, seed),
            list(model.features),
            adata.obs_names[rows],
        )
        if groups is not None:
            of_groups.append(_agreement(model.posterior, counts[rows], rows, known, groups, draws).assign(model=name))
    entry: dict[str, Any] = {
        "summary": pd.DataFrame({name: _summary(each[0]) for name, each in found.items()}).T,
        "genes": _table({name: (each[0].measured_genes, each[0].drawn_genes, each[1]) for name, each in found.items()}),
        "cells": _table({name: (each[0].measured_cells, each[0].drawn_cells, each[2]) for name, each in found.items()}),
        "coverage": pd.DataFrame(
            {name: [each[0].coverage(level) for level in LEVELS] for name, each in found.items()},
            index=pd.Index([f"{level:.1f}" for level in LEVELS], name="level"),
        ),
        "params": {"models": ", ".join(names), "n_samples": draws, "n_cells": min(most, adata.n_obs), "seed": seed},
    }
    if groupby is not None:
        entry["groups"] = pd.concat(of_groups, ignore_index=True)
        entry["groups"].index = entry["groups"].index.astype(str)
        entry["params"]["groupby"] = groupby
    write_to_cells(adata, uns={key_added: entry})
    errors = ", ".join(f"{name} {entry['summary'].loc[name, 'calibration_error']:.3f}" for name in names)
    _logging.info(f"tl.posterior_predictive_check: calibration error {errors}. Added uns['{key_added}'].")
    return adata if copy else None


def _comparison(
    posterior: Any, counts: csr_matrix, rows: np.ndarray, known: np.ndarray | None, n_draws: int, seed: int
) -> Comparison:
    """The counts of some cells against draws of them, as far as they are known."""
    from scvi_pp._backend.criticism import compare_with_draws, predictive_draws

    block = posterior.block_size(decoded=True, drawing=True)
    with posterior.asking():
        draws = predictive_draws(posterior, rows, n_draws)
        return compare_with_draws(counts, draws, block=block, seed=seed, known=known)


def _groups(adata: AnnData | MuData, groupby: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The group of every cell, and their names."""
    table: Any = observations(adata, [groupby]) if isinstance(adata, MuData) else adata
    codes, names = groups_of_column(table, groupby)
    if len(names) < 2:
        raise InputError(f"obs['{groupby}'] has one group, '{names[0]}': there is nothing it differs from.")
    return codes, names


def _agreement(
    posterior: Any,
    counts: csr_matrix,
    rows: np.ndarray,
    known: np.ndarray | None,
    groups: tuple[np.ndarray, tuple[str, ...]],
    n_draws: int,
) -> pd.DataFrame:
    """Whether groups differ in the draws by what they differ in the data; a row for each group that has cells enough.

    Looked at are features that are known of all cells.
    """
    from scvi_pp._backend.agreement import agreement, differences
    from scvi_pp._backend.criticism import whole_draws

    codes, names = groups[0][rows], np.array(groups[1])
    n_cells = np.bincount(codes, minlength=len(names))
    kept = np.flatnonzero((n_cells >= FEWEST_CELLS) & (len(codes) - n_cells >= FEWEST_CELLS))
    columns = np.arange(counts.shape[1]) if known is None else np.flatnonzero(known.all(0))
    if not len(columns):
        raise InputError("groupby compares groups by proteins that all batches have measured, and there is none.")
    measured = differences(counts[:, columns], codes, len(names))
    with posterior.asking():
        drawn = [
            differences(draw[:, columns], codes, len(names))
            for draw in whole_draws(posterior, rows, min(n_draws, MOST_DRAWS))
        ]
    found = agreement(measured, drawn)
    columns = {
        "top_genes": found.top_genes,
        "lfc_pearson": found.pearson,
        "lfc_slope": found.slope,
        "lfc_mae": found.error,
    }
    table = pd.DataFrame({"group": names, "n_cells": n_cells, **columns})
    return table.iloc[kept]


def _names(adata: AnnData | MuData, keys: Sequence[str] | str | None) -> list[str]:
    """The models that are asked about."""
    names = model_keys(adata.uns) if keys is None else [keys] if isinstance(keys, str) else list(keys)
    if not names:
        found = "keys is empty" if keys is not None else "uns holds no fitted model"
        raise MissingKeyError(f"{found}. Fit one first, such as tl.scvi(adata), and name it.")
    if MEASURED in names:
        raise InputError(
            f"A model named '{MEASURED}' cannot be told from the measured counts. Fit it under another key_added."
        )
    return list(dict.fromkeys(names))


def _summary(comparison: Comparison) -> dict[str, float]:
    """One row of numbers of a model."""
    found = {}
    for kind, measured, drawn in (
        ("gene", comparison.measured_genes, comparison.drawn_genes),
        ("cell", comparison.measured_cells, comparison.drawn_cells),
    ):
        for statistic in ("cv", "zero_fraction"):
            one, other = measured._asdict()[statistic], drawn._asdict()[statistic]
            both = np.isfinite(one) & np.isfinite(other)
            found[f"{statistic}_{kind}_pearson"] = _correlation(one[both], other[both])
            found[f"{statistic}_{kind}_mae"] = float(np.abs(one - other)[both].mean()) if both.any() else np.nan
    seen = comparison.measured_genes.variance > 0
    ratio = (comparison.drawn_genes.variance[seen] + 1e-12) / comparison.measured_genes.variance[seen]
    found["variance_ratio"] = float(np.median(ratio)) if seen.any() else np.nan
    found |= {f"coverage_{round(100 * level)}": comparison.coverage(level) for level in (0.5, 0.9)}
    found["calibration_error"] = float(np.mean([abs(comparison.coverage(level) - level) for level in LEVELS]))
    return found


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _table(of_models: dict[str, tuple[Summary, Summary, Any]]) -> pd.DataFrame:
    """Statistics of the measured counts and of every model's, a row for each gene or cell that any of them has."""
    names = list(dict.fromkeys(name for *_, index in of_models.values() for name in index))
    table = pd.DataFrame(index=pd.Index(names))
    for statistic in ("mean", "variance", "zero_fraction", "cv"):
        measured = pd.Series(np.nan, index=table.index)
        of_each = {}
        for model, (one, other, index) in of_models.items():
            of_each[f"{statistic}_{model}"] = pd.Series(other._asdict()[statistic], index=index).reindex(table.index)
            measured = measured.fillna(pd.Series(one._asdict()[statistic], index=index).reindex(table.index))
        table[f"{statistic}_{MEASURED}"] = measured
        for column, values in of_each.items():
            table[column] = values
    return table
