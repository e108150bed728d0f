"""What a model reads from an AnnData: one frozen class per kind of input.

A source is declared (`Category(("donor",))`), learns from the data it is fitted on (`learn`, which returns a copy
that remembers), and then reads any data the same way (`read`): same genes, same codes, same scaling. What it
remembers goes through JSON (`to_dict`, `source_from_dict`) into the stored model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from anndata import AnnData

from scvi_pp._data.columns import SEPARATOR, as_keys, check_texts, groups, label, numbers, refuse_beyond_float32
from scvi_pp._data.counts import Counts
from scvi_pp._data.labels import Labels
from scvi_pp._data.multiome import ModalityCounts, Present, RowNumber
from scvi_pp._data.panels import Panels
from scvi_pp._errors import InputError, did_you_mean, listing

__all__ = [
    "Array",
    "Categories",
    "Category",
    "Counts",
    "Labels",
    "Numbers",
    "Positive",
    "Share",
    "Source",
    "as_keys",
    "source_from_dict",
]

Array: TypeAlias = npt.NDArray[Any] | sp.csr_matrix | None
Memory = TypeVar("Memory")


class Source(Protocol):
    """Anything a model can read: declared, then learned, then read."""

    def learn(self, data: AnnData) -> Self:
        """Check the data of the fit and return a copy that remembers how to read."""
        ...

    def read(self, data: AnnData) -> Array:
        """Read any data the way that was learned."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; `source_from_dict` is the way back."""
        ...


@dataclass(frozen=True)
class Category:
    """One group per cell: an obs column, or several joined into one. Without keys all cells are of the last group.

    `levels` are the groups in the order of their codes: pandas' order for a categorical column, sorted by value
    otherwise; groups that no cell has are left out.
    """

    keys: tuple[str, ...]
    levels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_texts(self.keys, "Category.keys")
        if self.levels is not None:
            check_texts(self.levels, "Category.levels")

    @property
    def place(self) -> str:
        """Where the groups come from, for messages."""
        return SEPARATOR.join(f"obs['{key}']" for key in self.keys)

    def learn(self, data: AnnData) -> Self:
        """Return a copy that knows the groups of these cells."""
        return replace(self, levels=groups(data, self.keys)[1] if self.keys else ("all",))

    def read(self, data: AnnData) -> npt.NDArray[np.int64]:
        """Return the code of each cell's group, int64 (n_obs,)."""
        known = _learned(self.levels, self)
        if not self.keys:
            return np.full(data.n_obs, len(known) - 1, dtype=np.int64)
        codes, found = groups(data, self.keys)
        code_of = {level: code for code, level in enumerate(known)}
        unseen = [level for level in found if level not in code_of]
        if unseen:
            msg = (
                f"{self.place} holds {listing(unseen, quoted=True)}, which the model has not seen. "
                f"Known: {listing(known, limit=20)}. Use tl.map_query to add it."
            )
            raise InputError(msg)
        return np.array([code_of[level] for level in found], dtype=np.int64)[codes]

    def code(self, level: object) -> int:
        """Return the code of one group, as for `transform_batch`; for joined columns a tuple of values will do."""
        known = _learned(self.levels, self)
        name = SEPARATOR.join(label(part) for part in level) if isinstance(level, list | tuple) else label(level)
        if name not in known:
            msg = (
                f"{self.place or 'The model, fitted without this key,'} has no level '{name}'."
                f"{did_you_mean(name, known)} Known: {listing(known, limit=20)}."
            )
            raise InputError(msg)
        return known.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"kind": "Category", "keys": self.keys, "levels": self.levels}


@dataclass(frozen=True)
class Categories:
    """Several groupings per cell, each with its own codes."""

    keys: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        check_texts(self.keys, "Categories.keys")
        if self.levels is None:
            return
        _check_length(self.levels, self.keys, "Categories.levels")
        for levels in self.levels:
            check_texts(levels, "Categories.levels, for each key,")

    def learn(self, data: AnnData) -> Self:
        """Return a copy that knows the groups of these cells."""
        return replace(self, levels=tuple(groups(data, (key,))[1] for key in self.keys))

    def read(self, data: AnnData) -> npt.NDArray[np.int64]:
        """Return the codes of each cell's groups, int64 (n_obs, n_keys)."""
        levels = _learned(self.levels, self)
        codes = np.zeros((data.n_obs, len(self.keys)), dtype=np.int64)
        for i, key in enumerate(self.keys):
            codes[:, i] = Category((key,), levels[i]).read(data)
        return codes

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"kind": "Categories", "keys": self.keys, "levels": self.levels}


@dataclass(frozen=True)
class Numbers:
    """Measurements of each cell, on the scale of the data of the fit: mean 0 and deviation 1 there."""

    keys: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_texts(self.keys, "Numbers.keys")
        _check_floats(self.mean, self.keys, "Numbers.mean")
        _check_floats(self.scale, self.keys, "Numbers.scale")
        if (self.mean is None) != (self.scale is None) or any(value <= 0 for value in self.scale or ()):
            msg = "Numbers needs both mean and scale or neither, and every scale above zero."
            raise InputError(msg)

    def learn(self, data: AnnData) -> Self:
        """Return a copy that knows each column's mean and standard deviation (1 for a constant)."""
        mean, scale = [], []
        for key in self.keys:
            values = numbers(data, key)
            refuse_beyond_float32(values, key)  # and so no sum of squares overflows
            mean.append(float(values.mean()))
            deviation = float(values.std())
            rounding = 1e-12 * float(np.abs(values).max())
            scale.append(deviation if deviation > rounding else 1.0)
        return replace(self, mean=tuple(mean), scale=tuple(scale))

    def read(self, data: AnnData) -> npt.NDArray[np.float32]:
        """Return the standardised columns, float32 (n_obs, n_keys)."""
        mean, scale = _learned(self.mean, self), _learned(self.scale, self)
        standardised = np.zeros((data.n_obs, len(self.keys)), dtype=np.float32)
        for i, key in enumerate(self.keys):
            with np.errstate(over="ignore"):
                values = (numbers(data, key) - mean[i]) / scale[i]
            refuse_beyond_float32(values, key)
            standardised[:, i] = values
        return standardised

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"kind": "Numbers", "keys": self.keys, "mean": self.mean, "scale": self.scale}


@dataclass(frozen=True)
class Positive:
    """One positive number per cell, such as a size factor; nothing without a key."""

    key: str | None

    def __post_init__(self) -> None:
        if self.key is not None:
            check_texts((self.key,), "Positive.key")

    def learn(self, data: AnnData) -> Self:
        """Check the column; there is nothing to remember."""
        self.read(data)
        return self

    def read(self, data: AnnData) -> npt.NDArray[np.float32] | None:
        """Return the column, float32 (n_obs,), or None without a key."""
        if self.key is None:
            return None
        values = _as_float32(data, self.key)
        n_refused = int((values <= 0).sum())
        if n_refused:
            msg = (
                f"obs['{self.key}'] is zero or negative in {n_refused:,} of {data.n_obs:,} cells. Every value must be "
                f"positive: leave those cells out with adata[adata.obs['{self.key}'] > 0]."
            )
            raise InputError(msg)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"kind": "Positive", "key": self.key}


@dataclass(frozen=True)
class Share:
    """One number above 0 and at most 1 per cell, such as how deeply it was sequenced; nothing without a key."""

    key: str | None

    def __post_init__(self) -> None:
        if self.key is not None:
            check_texts((self.key,), "Share.key")

    def learn(self, data: AnnData) -> Self:
        """Check the column; there is nothing to remember."""
        self.read(data)
        return self

    def read(self, data: AnnData) -> npt.NDArray[np.float32] | None:
        """Return the column, float32 (n_obs,), or None without a key."""
        values = Positive(self.key).read(data)
        if values is None or values.max() <= 1:
            return values
        n_refused = int((values > 1).sum())
        msg = (
            f"obs['{self.key}'] is above 1 in {n_refused:,} of {data.n_obs:,} cells (largest {values.max():g}), and has "
            f"to be a share: above 0 and at most 1. Divide it by its largest value: adata.obs['{self.key}'] /= "
            f"adata.obs['{self.key}'].max()."
        )
        raise InputError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"kind": "Share", "key": self.key}


KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(Counts, Category, Categories, Labels, Numbers, Positive, Share),
        *(ModalityCounts, Present, RowNumber, Panels),
    )
}

OPTIONAL = {"absent", "is_absent", "obsm", "names_key"}  # of what is stored: said only where it is so


def columns_of(source: object) -> tuple[str, ...]:
    """Return the columns of `obs` that a source reads."""
    match source:
        case Category(keys=keys) | Categories(keys=keys) | Numbers(keys=keys):
            return keys
        case Positive(key=key) | Share(key=key) if key is not None:
            return (key,)
    return ()


def source_from_dict(stored: object) -> Source:
    """Return the source that `to_dict` described; `InputError` for anything else."""
    name = stored.get("kind") if isinstance(stored, Mapping) else None
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(stored, Mapping):
        msg = f"A stored source is a dict whose 'kind' is one of {listing(KINDS)}."
        raise InputError(msg)
    names = {field.name for field in fields(kind)}
    given = set(stored) - {"kind"}
    if not names - OPTIONAL <= given <= names:
        msg = f"A stored {kind.__name__} holds {listing(sorted(names - OPTIONAL))}, not {listing(stored)}."
        raise InputError(msg)
    source: Source = kind(**{name: _part(stored[name]) for name in given})
    return source


def _part(value: object) -> object:
    """A source within a source, or a plain value."""
    return source_from_dict(value) if isinstance(value, Mapping) else _tuples(value)


def _as_float32(data: AnnData, key: str) -> npt.NDArray[np.float32]:
    """Return a column that float32 can hold; what is too small for it becomes zero."""
    values = numbers(data, key)
    refuse_beyond_float32(values, key)
    with np.errstate(under="ignore"):
        return values.astype(np.float32)


def _tuples(value: object) -> object:
    """Turn JSON's lists, at most two deep, back into tuples."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def _learned(memory: Memory | None, source: object) -> Memory:
    if memory is None:
        msg = f"{source} has not learned from any data: call its learn(data) first and read with what that returns."
        raise InputError(msg)
    return memory


def _check_length(values: object, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(values, tuple) or len(values) != len(keys):
        msg = f"{what} is a tuple with one item for each of the {len(keys)} keys."
        raise InputError(msg)


def _check_floats(values: tuple[float, ...] | None, keys: tuple[str, ...], what: str) -> None:
    if values is None:
        return
    _check_length(values, keys, what)
    if not all(isinstance(value, float) and math.isfinite(value) for value in values):
        msg = f"{what} holds finite floats only."
        raise InputError(msg)
