"""Which cells are compared with which: from columns of obs, or from cells that are pointed out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from scvi_pp import _logging
from scvi_pp._data.columns import groups_of_column
from scvi_pp._data.multiome import observations
from scvi_pp._errors import InputError, did_you_mean, listing

if TYPE_CHECKING:
    from anndata import AnnData

REST = "rest"
FEWEST_CELLS = 2


@dataclass(frozen=True)
class Comparison:
    """One group against another, each by its strata: disjoint sets of cells."""

    name: str
    group1: str
    group2: str
    first: tuple[int, ...]
    second: tuple[int, ...]
    within: str | None = None


@dataclass(frozen=True)
class Design:
    """The rows of every stratum, and what is compared."""

    rows: list[np.ndarray]
    comparisons: list[Comparison]


def by_column(
    data: AnnData | MuData, groupby: str, *, groups: object, reference: str, within: str | None = None
) -> Design:
    """Compare groups of a column with the rest or with one of them; with `within` inside each group of another column."""
    keys = [groupby] if within is None else [groupby, within]
    table: Any = observations(data, keys) if isinstance(data, MuData) else data
    codes, names = groups_of_column(table, groupby)
    if len(names) < 2:
        raise InputError(f"obs['{groupby}'] has one group, '{names[0]}': there is nothing to compare it with.")
    tested = _tested(groupby, names, groups, reference)
    if within is None:
        return _of_levels(codes, names, tested, reference, groupby)
    if within == groupby:
        raise InputError(f"within={within!r} is the column of the groups themselves. Name another one.")
    outer, levels = groups_of_column(table, within)
    rows: list[np.ndarray] = []
    comparisons: list[Comparison] = []
    left_out: list[str] = []
    for code, level in enumerate(levels):
        inside = np.where(outer == code, codes, -1)
        enough = {name for i, name in enumerate(names) if (inside == i).sum() >= FEWEST_CELLS}
        here = [name for name in tested if name in enough]
        if not here or (reference != REST and str(reference) not in enough) or (reference == REST and len(enough) < 2):
            left_out.append(level)
            continue
        left_out += [f"{name} ({level})" for name in tested if name not in enough]
        part = _of_levels(inside, names, here, reference, f"{groupby}'] where obs['{within}'] is '{level}")
        shift = len(rows)
        rows += part.rows
        comparisons += [
            Comparison(
                f"{each.name} ({level})",
                each.group1,
                each.group2,
                tuple(shift + stratum for stratum in each.first),
                tuple(shift + stratum for stratum in each.second),
                level,
            )
            for each in part.comparisons
        ]
    if not comparisons:
        raise InputError(
            f"In no group of obs['{within}'] are two groups of obs['{groupby}'] with {FEWEST_CELLS} cells."
        )
    if left_out:
        _logging.warning(f"Not compared, for want of cells: {listing(left_out)}.")
    return Design(rows, comparisons)


def of_cells(data: AnnData | MuData, cells1: object, cells2: object) -> Design:
    """Compare cells that are pointed out with others, or with all others."""
    first = rows_of_cells(data, cells1, "cells1")
    second = np.setdiff1d(np.arange(data.n_obs), first) if cells2 is None else rows_of_cells(data, cells2, "cells2")
    both = np.intersect1d(first, second)
    if len(both):
        names = listing(data.obs_names[both], limit=3, quoted=True)
        raise InputError(f"{len(both):,} cells are in cells1 and in cells2: {names}. A cell can be on one side only.")
    for argument, rows in (("cells1", first), ("cells2", second)):
        if len(rows) < FEWEST_CELLS:
            raise InputError(
                f"{argument} has {len(rows)} cells; a comparison needs at least {FEWEST_CELLS} on each side."
            )
    group2 = REST if cells2 is None else "cells2"
    return Design([first, second], [Comparison("cells1", "cells1", group2, (0,), (1,))])


def _tested(groupby: str, names: tuple[str, ...], groups: object, reference: object) -> list[str]:
    """The groups that are tested, in the order asked for."""
    if reference != REST and str(reference) not in names:
        raise InputError(f"reference={reference!r} is no group of obs['{groupby}'].{_known(str(reference), names)}")
    if isinstance(groups, str) and groups == "all":
        return [name for name in names if name != str(reference)]
    asked = [groups] if isinstance(groups, str) or not isinstance(groups, Iterable) else list(groups)
    if not asked:
        raise InputError("groups is empty. Name at least one, or leave it out for all.")
    wanted = list(dict.fromkeys(map(str, asked)))
    for name in wanted:
        if name not in names:
            raise InputError(f"groups names '{name}', which is no group of obs['{groupby}'].{_known(name, names)}")
        if name == str(reference):
            raise InputError(f"'{name}' is in groups and the reference: a group does not differ from itself.")
    return wanted


def _known(name: str, names: tuple[str, ...]) -> str:
    return f"{did_you_mean(name, names)} Groups: {listing(names, quoted=True)}."


def _of_levels(codes: np.ndarray, names: tuple[str, ...], tested: list[str], reference: str, where: str) -> Design:
    """A stratum for each group that is tested or the reference, and one for all others; `codes` -1 is in none."""
    needed = [*tested, *([] if reference == REST else [str(reference)])]
    rows = [np.flatnonzero(codes == names.index(name)) for name in needed]
    for name, found in zip(needed, rows, strict=True):
        if len(found) < FEWEST_CELLS:
            ways = "Leave it out: groups=[...]" if name in tested else "Choose another reference"
            raise InputError(f"Group '{name}' of obs['{where}'] has {len(found)} cells, too few to compare. {ways}.")
    if reference == REST:
        others = np.flatnonzero((codes >= 0) & ~np.isin(codes, [names.index(name) for name in needed]))
        strata = [*rows, *([others] if len(others) else [])]
        if len(strata) < 2:
            raise InputError(f"All cells of obs['{where}'] are in group '{needed[0]}': there is no rest.")
        rest = {name: tuple(k for k in range(len(strata)) if k != i) for i, name in enumerate(tested)}
        comparisons = [Comparison(name, name, REST, (i,), rest[name]) for i, name in enumerate(tested)]
        return Design(strata, comparisons)
    last = len(needed) - 1
    return Design(rows, [Comparison(name, name, str(reference), (i,), (last,)) for i, name in enumerate(tested)])


def rows_of_cells(data: AnnData | MuData, cells: object, argument: str) -> np.ndarray:
    """Positions of cells given by a mask, positions, names, or a query of obs."""
    if isinstance(cells, str):
        try:
            mask = np.asarray(data.obs.eval(cells))
        except Exception as error:  # pandas has an error of its own for everything that can be wrong with a query
            msg = f"{argument}={cells!r} cannot be asked of obs ({type(error).__name__}: {error})."
            raise InputError(f"{msg} Write it as for DataFrame.query: \"cell_type == 'B' and age > 3\".") from error
        if mask.dtype != bool or mask.shape != (data.n_obs,):
            raise InputError(f"{argument}={cells!r} says nothing of each cell that is true or false.")
        return np.flatnonzero(mask)
    values = np.asarray(cells.to_numpy() if isinstance(cells, pd.Series | pd.Index) else cells)
    if values.ndim != 1 or not len(values):
        raise InputError(f"{argument} must be a mask, positions or names of cells, in one dimension and not empty.")
    if values.dtype == bool:
        if len(values) != data.n_obs:
            raise InputError(f"{argument} is a mask of {len(values):,} cells, and there are {data.n_obs:,}.")
        return np.flatnonzero(values)
    if values.dtype.kind in "iu":
        if values.min() < -data.n_obs or values.max() >= data.n_obs:
            raise InputError(f"{argument} holds positions beyond the {data.n_obs:,} cells.")
        return np.unique(np.where(values < 0, values + data.n_obs, values))
    found = data.obs_names.get_indexer(values.astype(str))
    if (found < 0).any():
        raise InputError(f"{argument} names {listing(values[found < 0], limit=3, quoted=True)}, which are no cells.")
    return np.unique(found)
