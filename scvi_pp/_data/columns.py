"""One column of `obs`: as groups, or as numbers, with every check of what it holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from scvi_pp._errors import InputError, listing, missing_key

SEPARATOR = " | "  # between the values of several columns read as one


def label(value: object) -> str:
    """Return a group's name: 3.0 is '3', since pandas turns whole numbers into floats when one is missing."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def groups(data: AnnData, keys: tuple[str, ...]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return each cell's code and the names of the groups that occur, over one column or several joined."""
    codes, names = groups_of_column(data, keys[0])
    for key in keys[1:]:
        more_codes, more_names = groups_of_column(data, key)
        joined, codes = np.unique(codes * len(more_names) + more_codes, return_inverse=True)
        pairs = (divmod(int(pair), len(more_names)) for pair in joined)
        names = tuple(f"{names[first]}{SEPARATOR}{more_names[second]}" for first, second in pairs)
    if len(set(names)) < len(names):  # "a | b" beside "c", and "a" beside "b | c"
        twice = sorted({name for name in names if names.count(name) > 1})
        msg = (
            f"The columns {listing(keys)} give the same name {listing(twice, quoted=True)} to different groups, "
            f"since their values hold '{SEPARATOR}'. Rename those values."
        )
        raise InputError(msg)
    return codes.astype(np.int64, copy=False), names


def groups_of_column(data: AnnData, key: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return each cell's code and the groups of one column: in pandas' order if categorical, else by value."""
    column = obs_column(data, key)
    _refuse_missing(column, key)
    if isinstance(column.dtype, pd.CategoricalDtype):
        raw_codes, values = column.cat.codes.to_numpy(), list(column.cat.categories)
    else:
        raw_codes, values = _factorize(column, key)
    present = np.unique(raw_codes)
    labels = [_group_name(values[code], key) for code in present]
    names = tuple(dict.fromkeys(labels))
    code_of = {name: code for code, name in enumerate(names)}
    renumbered = np.zeros(len(values), dtype=np.int64)
    renumbered[present] = [code_of[name] for name in labels]
    return renumbered[raw_codes], names


def _factorize(column: pd.Series, key: str) -> tuple[npt.NDArray[np.int64], list[object]]:
    """Return codes and values in sorted order; values that do not compare are ordered by name."""
    try:
        codes, uniques = pd.factorize(column)
    except TypeError as error:
        msg = f"obs['{key}'] holds values that cannot be grouped ({error}). Use text, whole numbers or a categorical."
        raise InputError(msg) from error
    values = list(uniques)
    try:
        order = sorted(range(len(values)), key=values.__getitem__)
    except TypeError:
        order = sorted(range(len(values)), key=lambda i: label(values[i]))
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values))
    return rank[codes], [values[i] for i in order]


def _group_name(value: object, key: str) -> str:
    if isinstance(value, float | np.floating) and not float(value).is_integer():
        msg = (
            f"obs['{key}'] holds {float(value):g}, a measurement and not a group. Name it as a continuous covariate, "
            f"or make groups of it with pandas.cut."
        )
        raise InputError(msg)
    return label(value)


def obs_column(data: AnnData, key: str) -> pd.Series:
    """Return a column of obs, or say which there are."""
    if data.n_obs == 0:
        msg = f"The data has no cells, so obs['{key}'] is empty. Pass data with at least one cell."
        raise InputError(msg)
    if key not in data.obs.columns:
        raise missing_key("obs", "column", key, [str(name) for name in data.obs.columns])
    column = data.obs[key]
    if isinstance(column, pd.DataFrame):
        msg = f"obs has {column.shape[1]} columns named '{key}'. Rename or drop all but one."
        raise InputError(msg)
    return column


def numbers(data: AnnData, key: str) -> npt.NDArray[np.float64]:
    """Return a column of obs as finite float64 (n_obs,)."""
    column = obs_column(data, key)
    is_number = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype)
    if not is_number:
        msg = (
            f"obs['{key}'] holds {column.dtype}, not numbers. Convert it with pandas.to_numeric, or name it as a "
            f"categorical covariate."
        )
        raise InputError(msg)
    _refuse_missing(column, key)
    values: npt.NDArray[np.float64] = column.to_numpy(dtype=np.float64)
    n_infinite = int((~np.isfinite(values)).sum())
    if n_infinite:
        msg = f"obs['{key}'] is infinite in {n_infinite:,} of {data.n_obs:,} cells. Fill them or leave those cells out."
        raise InputError(msg)
    return values


def refuse_beyond_float32(values: npt.NDArray[np.float64], key: str) -> None:
    """Refuse values that float32 would turn into infinity."""
    if not np.abs(values).max(initial=0.0) <= np.finfo(np.float32).max:
        msg = f"obs['{key}'] holds values too large for the model. Rescale the column."
        raise InputError(msg)


def _refuse_missing(column: pd.Series, key: str) -> None:
    n_missing = int(column.isna().sum())
    if n_missing:
        msg = (
            f"obs['{key}'] is missing (NaN) in {n_missing:,} of {len(column):,} cells. Fill them, or leave those cells "
            f"out: adata[adata.obs['{key}'].notna()]."
        )
        raise InputError(msg)


def check_texts(values: object, what: str) -> None:
    """Refuse anything but a tuple of str without repeats."""
    if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
        msg = f"{what} is a tuple of names (str)."
        raise InputError(msg)
    if len(set(values)) < len(values):
        msg = f"{what} holds a name twice."
        raise InputError(msg)


def as_keys(value: object, argument: str) -> tuple[str, ...]:
    """Return the columns named by an argument that takes None, one name or a list of names."""
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        msg = f"{argument} takes the name of an obs column or a list of names, not {value!r}."
        raise InputError(msg)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{argument} names {listing(twice, quoted=True)} twice. Name each column once."
        raise InputError(msg)
    return tuple(names)
