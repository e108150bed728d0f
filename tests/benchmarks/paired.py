"""Measurements taken in turn, and the rows of the table that they make."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Better = Literal["lower", "higher", "gain"]


@dataclass(frozen=True)
class Target:
    """What a row has to reach: a bound on how many times better ours is, on our own figure, or just an end."""

    of: Literal["ratio", "value", "finishes"]
    bound: float = math.nan


@dataclass(frozen=True)
class Row:
    """One quantity, measured on both sides or on ours alone."""

    what: str
    unit: str
    better: Better
    """Which figure is better; "gain" compares by difference instead of ratio, higher being better."""
    ours: list[float]
    peer: list[float] = field(default_factory=list)
    """One for each of ours, taken just before it; empty if the peer was not run."""
    target: Target | None = None
    ratios: list[float] = field(default_factory=list)
    """How many times better ours is, pair by pair; `compared` fills it."""

    @property
    def ratio(self) -> float:
        """The median over pairs; not a number without pairs."""
        return median(self.ratios) if self.ratios else math.nan

    @property
    def is_beaten(self) -> bool:
        """Whether the median reaches the target, and no turn of ours failed to end."""
        assert self.target is not None
        if any(map(math.isinf, self.ours)):
            return False
        if self.target.of == "ratio":
            return self.ratio >= self.target.bound
        ours = median(self.ours)
        if self.target.of == "finishes":
            return True
        return ours <= self.target.bound if self.better == "lower" else ours >= self.target.bound


def compared(
    what: str, unit: str, better: Better, peer: list[float], ours: list[float], target: Target | None = None
) -> Row:
    """A row of pairs. A call of ours that never got there (infinite seconds) is 0 times as fast."""
    ratios = [how_much_better(better, *pair) for pair in zip(peer, ours, strict=True)]
    return Row(what, unit, better, ours, peer, target, ratios)


def how_much_better(better: Better, peer: float, ours: float) -> float:
    """Times, or the difference for a gain; more than 1, or than 0, is in our favour."""
    if better == "gain":
        return ours - peer
    return ours / peer if better == "higher" else peer / ours


def in_turn(
    what: str, contestants: dict[str, Callable[[], float]], *, repeats: int, unit: str, warm_up: bool = True
) -> dict[str, list[float]]:
    """The figures that the contestants give when asked in turn, `repeats` times, after a first time that is not kept.

    Whatever slows the machine down for a while then hits neighbours, and their ratio least.
    """
    if warm_up:
        for measure in contestants.values():
            measure()
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(1, repeats + 1):
        for name, measure in contestants.items():
            gc.collect()  # what the one before left behind is not this one's to clear away
            figures[name].append(measure())
        latest = ", ".join(f"{name} {readable(values[-1])} {unit}" for name, values in figures.items())
        print(f"{what}, {number} of {repeats}: {latest}", flush=True)
    return figures


def readable(value: float) -> str:
    """Three digits, or all before the point."""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
