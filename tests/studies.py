"""Numbers of simulated studies, which `--seed` decides, and the judgement of what was found in them.

A test that judges a fit takes its seeds from here, hands them to every simulator and every fit, and judges the mean over
its studies:

    SEEDS = seeds(3)

    def test_cell_types_are_found_again(judge):
        judge("index of cell types", [index(study(seed)) for seed in SEEDS], above=0.8)

`judge` marks the test as `statistical`, asserts the bound, and records how far the mean lies from it. `pytest --judged FILE`
keeps these records; tests/every_processor.py collects them over seeds and instruction sets, and so measures how much chance
moves each number: a bound has to be several standard deviations away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

APART = 100  # runs with seeds 0 and 1 share no study
_first = 0


def number_from(seed: int) -> None:
    """Number the studies of this run from `APART * seed` on."""
    global _first
    _first = APART * seed


def seeds(n: int) -> range:
    """The seeds of n studies."""
    return range(_first, _first + n)


class Judgement(NamedTuple):
    """A number that a test judges, and the bounds it was held to."""

    what: str
    values: list[float]  # of each study
    above: float | None
    below: float | None

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}" for word, bound in (("above", self.above), ("below", self.below)) if bound is not None
        ]
        values = ", ".join(f"{value:.4g}" for value in self.values)
        return f"{self.what}: {self.mean:.4g} in the mean of {values}, not {' and '.join(bounds)}"

    @property
    def mean(self) -> float:
        """Over the studies."""
        return float(np.mean(self.values))

    @property
    def holds(self) -> bool:
        """Whether the mean lies within the bounds; NaN does not."""
        lowest = -np.inf if self.above is None else self.above
        highest = np.inf if self.below is None else self.below
        return bool(lowest < self.mean < highest)


class Judge:
    """Asserts that means over studies lie within their bounds, and records them."""

    def __init__(self, record: Callable[[str, Any], None]) -> None:
        self._record = record

    def __call__(self, what: str, values: ArrayLike, *, above: float | None = None, below: float | None = None) -> None:
        """Judge the mean of one value for each study, or a single value."""
        assert above is not None or below is not None, f"{what} has no bound"
        lowest, highest = (None if bound is None else float(bound) for bound in (above, below))  # records hold no numpy
        found = Judgement(what, np.atleast_1d(np.asarray(values, dtype=float)).tolist(), lowest, highest)
        self._record("judged", found._asdict())
        assert found.holds, str(found)
