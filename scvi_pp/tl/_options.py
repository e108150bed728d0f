"""The options that models share, and their checks: one message for every impossible choice or number."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, get_args

from scvi_pp import _logging
from scvi_pp._errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

LatentDistribution = Literal["normal", "ln"]
BatchRepresentation = Literal["one-hot", "embedding"]
Where = Literal["encoder", "decoder", "both", "none"]


def check_choices(given: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """Refuse an option that is none of the Literal of its name."""
    for name, literal in choices.items():
        known = get_args(literal)
        if given[name] not in known:
            hint = did_you_mean(given[name], known)
            raise InputError(f"{name}={given[name]!r} is unknown.{hint} Choose one of {', '.join(map(repr, known))}.")


def check_names(given: Mapping[str, Any], *names: str) -> None:
    """Refuse what cannot name a column."""
    for name in names:
        if given[name] is not None and not isinstance(given[name], str):
            raise InputError(f"{name}={given[name]!r} must be the name of an obs column.")


def check_sizes(given: Mapping[str, Any], *names: str) -> None:
    """Refuse a size that is no whole number of at least 1."""
    for name in names:
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < 1:
            raise InputError(f"{name}={value!r} must be a whole number of at least 1.")


def check_flags(given: Mapping[str, Any], *names: str) -> None:
    """Refuse a switch that is neither True nor False."""
    for name in names:
        if not isinstance(given[name], bool):
            raise InputError(f"{name}={given[name]!r} must be True or False.")


def check_labels_key(dispersion: str, labels_key: str | None) -> None:
    """Refuse a dispersion by label without labels; remark on labels that nothing uses."""
    if dispersion == "gene-label" and labels_key is None:
        raise InputError("dispersion='gene-label' needs labels_key, the obs column with the labels.")
    if dispersion != "gene-label" and labels_key is not None:
        _logging.warning("labels_key is used by dispersion='gene-label' alone; here it has no effect.")


def check_rate(given: Mapping[str, Any], name: str) -> None:
    """Refuse a dropout rate outside [0, 1)."""
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{name}={value!r} must be a number of at least 0 and below 1.")
