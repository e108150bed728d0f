"""One file, one generative model. `named` finds the file that a stored model asks for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from scvi_pp._errors import ModelRecordError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

H = TypeVar("H")

NAMES = ("scvi", "linear_scvi", "scanvi", "peakvi", "poissonvi", "multivi", "totalvi")


def named(name: str) -> ModuleType:
    """The module of a model, with its Inputs, Hyperparameters, Network and build."""
    if name not in NAMES:
        msg = f"The stored model is a {name!r}, which this version of scvi_pp does not know. Known: {', '.join(NAMES)}."
        raise ModelRecordError(msg)
    return import_module(f"scvi_pp._backend.models.{name}")


def restored(hyperparameters: type[H], stored: Mapping[str, Any]) -> H:
    """Hyperparameters as they were stored, in JSON's types: what was a tuple is a list there."""
    return hyperparameters(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    )
