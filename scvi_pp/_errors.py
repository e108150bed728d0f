"""Every error scvi_pp raises on purpose, and how its messages name what exists.

All of them derive from `ScviPPError`. Each message says where, what was found, and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MOST_COMPARED = 5000  # difflib compares one by one: a list of every gene would take seconds


class ScviPPError(Exception):
    """Whatever scvi_pp refuses."""


class InputError(ScviPPError, ValueError):
    """The data or an argument cannot be used as it is."""


class MissingKeyError(ScviPPError, KeyError):
    """A column, layer or entry that the object does not have."""

    def __str__(self) -> str:
        """Return the message itself: `KeyError` would quote it and escape its line breaks."""
        return str(self.args[0]) if self.args else ""


class ModelRecordError(ScviPPError, ValueError):
    """The fitted model in `uns` is damaged, missing, foreign, or newer than this version of scvi_pp."""


def listing(names: Iterable[object], *, limit: int = 8, quoted: bool = False) -> str:
    """Join names for a message, the first `limit` of them and the number of the others."""
    texts = [repr(str(name)) if quoted else str(name) for name in names]
    if len(texts) > limit:
        return f"{', '.join(texts[:limit])} and {len(texts) - limit:,} more"
    return ", ".join(texts)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return `" Did you mean 'batch'?"` (with its leading blank), or nothing if no name is near."""
    by_folded = {str(other).casefold(): str(other) for other in list(known)[:MOST_COMPARED]}
    near = difflib.get_close_matches(str(name).casefold(), by_folded, n=1)
    return f" Did you mean '{by_folded[near[0]]}'?" if near else ""


def missing_key(place: str, noun: str, key: str, known: Sequence[str], *, way_out: str = "") -> MissingKeyError:
    """Return the error for a name that is not there, with the nearest name and those that are.

    >>> print(missing_key("obs", "column", "bacth", ["batch", "celltype"]))
    obs has no column 'bacth'. Did you mean 'batch'? Columns: batch, celltype.
    """
    there = f"{noun.capitalize()}s: {listing(known, limit=20)}." if known else f"It has no {noun}s."
    message = f"{place} has no {noun} '{key}'.{did_you_mean(key, known)} {there}"
    return MissingKeyError(f"{message} {way_out}" if way_out else message)


class TrainingError(ScviPPError, RuntimeError):
    """Training could not reach a usable model; the object is untouched."""
