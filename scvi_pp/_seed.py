"""One seed from whatever scanpy's users hand over: `rng`, or the older `random_state`."""

from __future__ import annotations

import operator
from typing import TypeAlias

import numpy as np

from scvi_pp._errors import InputError
from scvi_pp._settings import settings

Seed: TypeAlias = "int | np.random.Generator | np.random.RandomState | None"

LARGEST = 2**32 - 1


def seed_from(rng: Seed, random_state: Seed) -> int:
    """The seed: the number given, a draw from the generator given, or `settings.seed`."""
    if rng is not None and random_state is not None:
        raise InputError("Give rng or random_state, not both.")
    source = random_state if rng is None else rng
    if source is None:
        return settings.seed
    if isinstance(source, np.random.Generator):
        return int(source.integers(LARGEST))
    if isinstance(source, np.random.RandomState):
        return int(source.randint(0, LARGEST, dtype=np.int64))
    try:
        seed = operator.index(source)
    except TypeError:
        seed = -1
    if not 0 <= seed <= LARGEST:
        name = "random_state" if rng is None else "rng"
        raise InputError(f"{name}={source!r} is no seed: give a whole number from 0 to {LARGEST} or a numpy generator.")
    return seed
