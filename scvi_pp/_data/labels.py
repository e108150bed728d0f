"""Labels of which some are missing: the types of cells that were annotated, and nothing of the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from scvi_pp._data.columns import check_texts, groups_of_column, label, obs_column
from scvi_pp._errors import InputError, did_you_mean, listing

# what people write where they have no label
USUAL_NAMES = ("unlabeled", "unlabelled", "unknown", "unassigned", "undefined", "na", "nan", "none", "")


@dataclass(frozen=True)
class Labels:
    """One label per cell, or none: where the column is missing (NaN) or holds the unlabeled category.

    `levels` are the labels that occur, as of `Category`. What a fitted model does not know has no label: another name, or
    all cells of data without the column, or of a query, whose labels are not looked at (`is_absent`).
    """

    key: str
    unlabeled: str | None = None
    levels: tuple[str, ...] | None = None
    is_absent: bool = False

    def __post_init__(self) -> None:
        check_texts((self.key,), "Labels.key")
        if self.unlabeled is not None:
            check_texts((self.unlabeled,), "Labels.unlabeled")
        if self.levels is not None:
            check_texts(self.levels, "Labels.levels")
        if not isinstance(self.is_absent, bool):
            msg = "Labels.is_absent is True or False."
            raise InputError(msg)

    @property
    def place(self) -> str:
        """Where the labels come from, for messages."""
        return f"obs['{self.key}']"

    def learn(self, data: AnnData) -> Self:
        """Return a copy that knows the labels of these cells."""
        column = obs_column(data, self.key)
        has_value = column.notna().to_numpy()
        levels = groups_of_column(_only(column[has_value]), self.key)[1] if has_value.any() else ()
        known = tuple(level for level in levels if level != self.unlabeled)
        self._refuse_misspelt(levels)
        if not known:
            none = "nothing" if not has_value.any() else f"nothing but '{self.unlabeled}'"
            msg = f"{self.place} holds {none}: no cell has a label. Label some, or use tl.scvi, which needs none."
            raise InputError(msg)
        if len(known) == 1:
            msg = (
                f"{self.place} has one label, {listing(known, quoted=True)}, and there is nothing to tell it from. Give at "
                "least two, or use tl.scvi, which needs none."
            )
            raise InputError(msg)
        return replace(self, levels=known)

    def _refuse_misspelt(self, levels: tuple[str, ...]) -> None:
        """Refuse a name for cells without a label that no cell has where one like it is there."""
        if self.unlabeled is None or self.unlabeled in levels:
            return
        near = [level for level in levels if level.casefold() == self.unlabeled.casefold()]
        near = near or [level for level in levels if level.casefold() in USUAL_NAMES]
        if near:
            msg = f"unlabeled_category='{self.unlabeled}' is nowhere in {self.place}, which holds '{near[0]}'."
            raise InputError(f"{msg}{did_you_mean(self.unlabeled, near)} Give unlabeled_category='{near[0]}'.")

    def suspicious(self) -> tuple[str, ...]:
        """Return the labels that look as if they meant that there is none."""
        return tuple(level for level in self.levels or () if level.strip().casefold() in USUAL_NAMES)

    def read(self, data: AnnData) -> npt.NDArray[np.int64]:
        """Return the code of each cell's label, int64 (n_obs,); their number where there is none."""
        if self.levels is None:
            msg = f"{self} has not learned from any data: call its learn(data) first and read with what that returns."
            raise InputError(msg)
        n_labels = len(self.levels)
        if self.is_absent or self.key not in data.obs.columns:
            return np.full(data.n_obs, n_labels, dtype=np.int64)
        code_of: dict[Any, int] = {level: code for code, level in enumerate(self.levels)}
        values = obs_column(data, self.key)
        names, codes = _names(values)
        of_name = np.array([*(code_of.get(name, n_labels) for name in names), n_labels], dtype=np.int64)
        return of_name[codes]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        described = {"kind": "Labels", "key": self.key, "unlabeled": self.unlabeled, "levels": self.levels}
        return described | ({"is_absent": True} if self.is_absent else {})


def _names(column: pd.Series) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the values of a column as names of groups, and for each cell which, -1 where it is missing."""
    codes, values = pd.factorize(column)
    return [label(value) for value in values], np.asarray(codes, dtype=np.int64)


def _only(column: pd.Series) -> AnnData:
    """Return cells of nothing but this column; their names may not tell them apart, and are left out."""
    return AnnData(obs=column.to_frame().set_axis(pd.RangeIndex(len(column)).astype(str)))
