"""Checks of the options that several getters share."""

from __future__ import annotations

from typing import Literal

import numpy as np

from scvi_pp._errors import InputError


def is_number(value: object) -> bool:
    """Whether it is one; True and False are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def checked_count(name: str, value: object) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}={value!r} must be a whole number of at least 1.")
    return int(value)


def checked_samples(n_samples: object) -> int | None:
    """A number of draws, or None for the posterior mean."""
    return None if n_samples is None else checked_count("n_samples", n_samples)


def checked_library_size(library_size: float | Literal["latent"]) -> float | None:
    """A positive number, or None for "latent": the cell's own."""
    if isinstance(library_size, str) and library_size == "latent":
        return None
    if not is_number(library_size) or not 0 < float(library_size) < np.inf:
        raise InputError(f"library_size={library_size!r} must be a positive number or 'latent'.")
    return float(library_size)


def checked_threshold(threshold: float | None) -> float | None:
    """A number of at least 0, or None for none."""
    if threshold is None:
        return None
    if not is_number(threshold) or not 0 <= float(threshold) < np.inf:
        raise InputError(f"threshold={threshold!r} must be a number of at least 0, or None.")
    return float(threshold)


def checked_flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name}={value!r} must be True or False.")
    return value
