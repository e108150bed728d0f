"""What a model reads from a MuData: the counts of a modality for all cells, and in which cells there are any.

Rows are those of the MuData. Where a modality stands among them is what `obsmap` says, so modalities may have the same
cells, some of them, or none in common. Everything else is read from one table of cells, to which columns come from
`mdata.obs` or, if they are not there, from the modalities.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from scvi_pp._data.columns import check_texts
from scvi_pp._data.counts import Counts
from scvi_pp._data.modalities import multimodal, no_columns_pulled
from scvi_pp._errors import InputError, MissingKeyError, did_you_mean, listing, missing_key

T = TypeVar("T", AnnData, MuData)


@dataclass(frozen=True)
class ModalityCounts:
    """Counts of one modality, a row for every cell of the MuData; cells without the modality have an empty one.

    A modality that `is_absent` need not be in the MuData, and then no cell has it. One that is beside the features of an
    AnnData lies in its `obsm`, and has names in `uns[names_key]` unless it is a table.
    """

    modality: str
    counts: Counts
    is_absent: bool = False
    obsm: str | None = None
    names_key: str | None = None

    def __post_init__(self) -> None:
        check_texts((self.modality,), "ModalityCounts.modality")
        if not isinstance(self.counts, Counts):
            msg = "ModalityCounts.counts is a Counts."
            raise InputError(msg)
        check_texts(tuple(key for key in (self.obsm, self.names_key) if key is not None), "ModalityCounts.obsm")

    @property
    def place(self) -> str:
        """Where the values come from, for messages."""
        return f"mdata['{self.modality}'].{self.counts.place}"

    @property
    def var_names(self) -> tuple[str, ...] | None:
        """The modelled features of the modality."""
        return self.counts.var_names

    def learn(self, data: MuData) -> Self:
        """Check every value and return a copy that knows the features."""
        modality = modality_of(data, self.modality)
        if modality.n_obs == 0:
            msg = f"mdata['{self.modality}'] has no cells. Leave the modality out, or pass data in which some cell has it."
            raise InputError(msg)
        return replace(self, counts=self.telling_where(self.counts.learn, modality))

    def read(self, data: MuData) -> sp.csr_matrix:
        """Return the modelled features of all cells, float32 CSR (n_obs, n_modelled).

        New cells may all lack the modality; it is there all the same, so that a name that is wrong is seen.
        """
        lacks = self.is_absent and self.modality not in data.mod
        if self.var_names is not None and (lacks or modality_of(data, self.modality).n_obs == 0):
            return sp.csr_matrix((data.n_obs, len(self.var_names)), dtype=np.float32)
        modality = modality_of(data, self.modality)
        found: sp.csr_matrix = self.telling_where(self.counts.read, modality)
        return _at_rows(found, rows_of_modality(data, self.modality))

    def telling_where(self, step: Any, data: AnnData) -> Any:
        """Take a step with the data of the modality, whose errors say which modality it was."""
        try:
            return step(data)
        except (InputError, MissingKeyError) as error:
            raise type(error)(f"mdata['{self.modality}']: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        described: dict[str, Any] = {
            "kind": "ModalityCounts",
            "modality": self.modality,
            "counts": self.counts.to_dict(),
        }
        described |= {"is_absent": True} if self.is_absent else {}
        beside = {"obsm": self.obsm, "names_key": self.names_key}
        return described | {name: key for name, key in beside.items() if key is not None}


@dataclass(frozen=True)
class Present:
    """In which cells each modality was measured; a modality without a name is in none.

    One that is `absent` need not be in the MuData, and then is in none.
    """

    modalities: tuple[str | None, ...]
    absent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_texts(self.absent, "Present.absent")
        if not isinstance(self.modalities, tuple):
            msg = "Present.modalities is a tuple of names, or None for what is not there."
            raise InputError(msg)
        check_texts(tuple(name for name in self.modalities if name is not None), "Present.modalities")

    def learn(self, data: MuData) -> Self:
        """Check that every cell has a modality; there is nothing to remember."""
        none = ~self.read(data).any(1)
        if none.any():
            names = listing(data.obs_names[none], quoted=True)
            known = listing([name for name in self.modalities if name is not None])
            msg = f"{int(none.sum()):,} cells are in none of the modalities {known}: {names}. Leave them out."
            raise InputError(msg)
        return self

    def read(self, data: MuData) -> npt.NDArray[np.bool_]:
        """Return bool (n_obs, n_modalities)."""
        present = np.zeros((data.n_obs, len(self.modalities)), dtype=bool)
        for column, name in enumerate(self.modalities):
            if name is not None and not (name in self.absent and name not in data.mod):
                present[:, column] = rows_of_modality(data, name) >= 0
        return present

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        described: dict[str, Any] = {"kind": "Present", "modalities": self.modalities}
        return described | ({"absent": self.absent} if self.absent else {})


@dataclass(frozen=True)
class RowNumber:
    """Which of the fitted cells each cell is, by name; -1 for others, and for all if names are not kept."""

    kept: bool
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kept, bool):
            msg = "RowNumber.kept is True or False."
            raise InputError(msg)
        if self.names is not None:
            check_texts(self.names, "RowNumber.names")

    def learn(self, data: MuData) -> Self:
        """Return a copy that knows the cells."""
        if self.kept and not data.obs_names.is_unique:
            twice = data.obs_names[data.obs_names.duplicated()].unique()
            names = listing(twice, limit=3, quoted=True)
            msg = f"obs_names holds {names} more than once, and names have to tell cells apart. Rename the cells."
            raise InputError(msg)
        return replace(self, names=tuple(map(str, data.obs_names)) if self.kept else ())

    def read(self, data: MuData) -> npt.NDArray[np.int64]:
        """Return int64 (n_obs,)."""
        if not self.kept:
            return np.full(data.n_obs, -1, dtype=np.int64)
        return np.asarray(pd.Index(self.names or ()).get_indexer(data.obs_names.astype(str)), dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"kind": "RowNumber", "kept": self.kept, "names": self.names}


def modality_of(data: MuData, name: str) -> AnnData:
    """Return a modality, or say which there are."""
    if name not in data.mod:
        msg = f"mdata has no modality '{name}'.{did_you_mean(name, data.mod)} Modalities: {listing(data.mod)}."
        raise MissingKeyError(msg)
    modality: AnnData = data.mod[name]
    return modality


def rows_of_modality(data: MuData, name: str) -> npt.NDArray[np.int64]:
    """Return where each cell of the MuData stands in a modality, -1 where it does not, int64 (n_obs,)."""
    names, known = data.mod[name].obs_names, name in data.obsmap
    # in a MuData 0 says absent; a modality that was put in since is not there before mdata.update()
    rows = np.asarray(data.obsmap[name] if known else np.zeros(data.n_obs)).ravel().astype(np.int64) - 1
    present = rows >= 0
    whole = present.sum() == len(names) and rows.max(initial=-1) < len(names)
    if whole and np.array_equal(names[rows[present]], data.obs_names[present]):
        return rows
    rows = _rows_by_name(names, data.obs_names)
    if (rows >= 0).sum() != len(names):
        msg = f"The cells of mdata['{name}'] have changed since mdata was made. Call mdata.update()."
        raise InputError(msg)
    return rows


def _rows_by_name(names: pd.Index, wanted: pd.Index) -> npt.NDArray[np.int64]:
    """Return where each wanted cell is, -1 where it is not; nowhere if names do not tell cells apart."""
    if not (names.is_unique and wanted.is_unique):
        return np.full(len(wanted), -1, dtype=np.int64)
    return np.asarray(names.get_indexer(wanted), dtype=np.int64)


def without_modalities(data: MuData, names: Iterable[str]) -> MuData:
    """Return the cells that are in other modalities than these, with those alone."""
    kept = {name: part for name, part in data.mod.items() if name not in set(names)}
    is_kept = np.any([rows_of_modality(data, name) >= 0 for name in kept], axis=0)
    return multimodal(kept, data.obs[is_kept])


def _at_rows(counts: sp.csr_matrix, rows: npt.NDArray[np.int64]) -> sp.csr_matrix:
    """Return the rows of a modality as rows of the MuData, empty where it has none."""
    if np.array_equal(rows, np.arange(counts.shape[0])):
        return counts
    present = rows >= 0
    taken = counts[rows[present]]
    lengths = np.zeros(len(rows), dtype=np.int64)
    lengths[present] = np.diff(taken.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((taken.data, taken.indices, indptr), shape=(len(rows), counts.shape[1]))


def observations(data: MuData, keys: Iterable[str], factors: Iterable[str] = ()) -> AnnData:
    """Return an AnnData of nothing but these columns, from `mdata.obs` or from the modalities that have them.

    A cell takes the value that its modalities agree on; one that none of them gives a value is missing, as NaN. Of the
    columns that are `factors` of a modality, cells without that modality have 1, which is not used.
    """
    columns = {key: data.obs[key] if key in data.obs.columns else _from_modalities(data, key) for key in keys}
    for key in factors:
        if key not in data.obs.columns:
            columns[key] = columns[key].where(_has_column(data, key), 1.0).infer_objects()
    return AnnData(obs=pd.DataFrame(columns, index=data.obs_names))


def _has_column(data: MuData, key: str) -> npt.NDArray[np.bool_]:
    """Return which cells are in a modality that has the column, (n_obs,)."""
    holders = [name for name in data.mod if key in data.mod[name].obs.columns]
    found = np.zeros(data.n_obs, dtype=bool)
    for name in holders:
        found |= rows_of_modality(data, name) >= 0
    return found


def _from_modalities(data: MuData, key: str) -> pd.Series:
    holders = [name for name in data.mod if key in data.mod[name].obs.columns]
    if not holders:
        known = dict.fromkeys([*data.obs.columns, *(c for name in data.mod for c in data.mod[name].obs.columns)])
        raise missing_key("mdata.obs, and each modality's obs,", "column", key, [str(name) for name in known])
    found: pd.Series | None = None
    for name in holders:
        column = _of_all_cells(data, name, key)
        if found is None:
            found = column
            continue
        differs = found.notna() & column.notna() & (found != column)
        if differs.any():
            cell = data.obs_names[differs.to_numpy()][0]
            msg = (
                f"obs['{key}'] of cell '{cell}' is '{found[cell]}' in one modality and '{column[cell]}' in '{name}'; "
                f"{int(differs.sum()):,} cells differ. Put the right values into mdata.obs['{key}']."
            )
            raise InputError(msg)
        found = found.where(found.notna(), column)
    assert found is not None
    dtypes = [data.mod[name].obs[key].dtype for name in holders]
    if all(isinstance(dtype, pd.CategoricalDtype) for dtype in dtypes):
        return found.astype(
            pd.CategoricalDtype(list(dict.fromkeys(level for dtype in dtypes for level in dtype.categories)))
        )
    return found.infer_objects()


def _of_all_cells(data: MuData, name: str, key: str) -> pd.Series:
    """Return a column of a modality for every cell, NaN where it lacks the modality."""
    rows = rows_of_modality(data, name)
    values = np.full(data.n_obs, np.nan, dtype=object)
    values[rows >= 0] = data.mod[name].obs[key].to_numpy(dtype=object)[rows[rows >= 0]]
    return pd.Series(values, index=data.obs_names)


def copied(data: T) -> T:
    """Return a copy; of a MuData one whose tables have the columns of the original and no more, whatever its version."""
    with no_columns_pulled():
        return data.copy()
