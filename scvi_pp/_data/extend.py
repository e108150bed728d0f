"""Learned sources for the cells of another study: groups that these bring along, and features that they lack.

What was learned stays as it is, in its order: new groups come behind the known ones, and a feature that is not there is
read as no counts of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from anndata import AnnData
from mudata import MuData

from scvi_pp._data.columns import groups
from scvi_pp._data.counts import Counts, lacking_features, message_of_lacking
from scvi_pp._data.multiome import ModalityCounts, Present, RowNumber
from scvi_pp._data.panels import Panels
from scvi_pp._data.read import Inputs, parts_for
from scvi_pp._data.sources import Categories, Category, Labels
from scvi_pp._errors import InputError, listing

T = TypeVar("T", bound=Inputs)
UNLABELED = "unlabeled"


@dataclass(frozen=True)
class Additions:
    """What was found in the data that the sources did not know."""

    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by where they are: those that are new
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)  # by place: features found, of how many


def extend(
    data: AnnData | MuData, sources: T, *, verb: str, fewest: float, layer: str | None = None
) -> tuple[T, Additions]:
    """Return sources that read these cells too, and what was added to them.

    Parameters
    ----------
    data
        The cells of the query.
    sources
        A NamedTuple of learned sources.
    verb
        The public function that was called, for messages.
    fewest
        Share of the features that has to be there.
    layer
        Where the counts are, if not where those of the fit were; `"X"` is `X`.
    """
    known = _without_lacking_modalities(data, sources)
    additions = Additions()
    extended: list[Any] = []
    for name, (source, part) in zip(known._fields, parts_for(data, known, verb), strict=True):  # type: ignore[attr-defined]
        if name == "labels" and isinstance(source, Category) and _lacks(part, source.keys):
            extended.append(_without_labels(source, additions))
        elif isinstance(source, Panels):
            proteins = _extended(source.proteins, part, Additions(), fewest=fewest, layer=layer)
            extended.append(source.extended(part, proteins))
        else:
            extended.append(_extended(source, part, additions, fewest=fewest, layer=layer))
    return type(sources)._make(extended), additions


def _extended(source: Any, data: Any, additions: Additions, *, fewest: float, layer: str | None) -> Any:
    match source:
        case Counts():
            moved = source if layer is None else replace(source, layer=None if layer == "X" else layer)
            return _of_features(moved, data, additions, source.place, fewest)
        case ModalityCounts() if not source.is_absent:
            of = data.mod[source.modality]
            counts = source.telling_where(
                lambda it: _of_features(source.counts, it, additions, source.place, fewest), of
            )
            return replace(source, counts=counts)
        case Category(keys=keys) if keys:
            levels = _levels(data, keys, source.levels or (), additions)
            return replace(source, levels=levels)
        case Categories(keys=keys):
            known = source.levels or ()
            return replace(
                source,
                levels=tuple(_levels(data, (key,), levels, additions) for key, levels in zip(keys, known, strict=True)),
            )
        case Labels():
            return replace(source, is_absent=True)
        case RowNumber():
            return RowNumber(kept=False, names=())
    return source


def _of_features(source: Counts, data: AnnData, additions: Additions, place: str, fewest: float) -> Counts:
    names = source.var_names or ()
    lacking = lacking_features(names, data)
    additions.shared[place] = len(names) - len(lacking), len(names)
    if len(names) - len(lacking) < max(1.0, fewest * len(names)):
        raise InputError(message_of_lacking(lacking, names, data, way_out="Or lower min_shared."))
    return replace(source, absent=tuple(lacking))


def _levels(data: AnnData, keys: tuple[str, ...], known: tuple[str, ...], additions: Additions) -> tuple[str, ...]:
    _, found = groups(data, keys)
    new = tuple(level for level in found if level not in known)
    if new:
        additions.groups[Category(keys).place] = new
    return known + new


def _lacks(data: AnnData, keys: Iterable[str]) -> bool:
    return any(key not in data.obs.columns for key in keys)


def _without_labels(source: Category, additions: Additions) -> Category:
    """Every cell is of one more group, behind those that are known."""
    additions.groups[source.place] = (UNLABELED,)
    levels = source.levels or ()
    return Category((), levels if UNLABELED in levels[-1:] else (*levels, UNLABELED))


def _without_lacking_modalities(data: AnnData | MuData, sources: T) -> T:
    """Modalities that the query does not have are read as measured in none of its cells."""
    if not isinstance(data, MuData):
        return sources
    wanted = [source.modality for source in sources if isinstance(source, ModalityCounts)]
    absent = tuple(name for name in wanted if name not in data.mod)
    if len(absent) == len(wanted):
        msg = f"mdata has none of the modalities of the model: {listing(wanted)}. It has {listing(data.mod)}. Rename them."
        raise InputError(msg)

    def without(source: Any) -> Any:
        match source:
            case ModalityCounts(modality=name) if name in absent:
                return replace(source, is_absent=True)
            case Panels(proteins=proteins):
                return replace(source, proteins=without(proteins))
            case Present():
                return replace(source, absent=absent)
        return source

    return type(sources)._make(without(source) for source in sources)
