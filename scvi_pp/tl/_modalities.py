"""Which modality of a MuData is which: by name, or by what its features are."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from scvi_pp._data.feature_types import USUAL_NAMES, modality_of_type
from scvi_pp._errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mudata import MuData

# of a verb: the name of a modality, None to look for it, False to leave it out
Name: TypeAlias = str | Literal[False] | None


def modalities(mdata: MuData, **given: Name) -> dict[str, str | None]:
    """The name of each modality in the MuData, None of one that is left out or not there."""
    found: dict[str, str | None] = {}
    for what, name in given.items():
        if name is not None and name is not False and name not in mdata.mod:
            msg = f"{what}={name!r} is no modality of mdata. Modalities: {listing(mdata.mod, quoted=True)}."
            raise InputError(msg)
        found[what] = _looked_for(mdata, what) if name is None else name or None
    _refuse_twice(found)
    if found.get("rna") is None and found.get("atac") is None:
        known = listing(mdata.mod, quoted=True)
        lone = [what for what in ("rna", "atac") if what in given]
        way_out = f"Name {'them' if len(lone) > 1 else 'it'}: {', '.join(f'{what}=...' for what in lone)}"
        msg = f"mdata has modalities {known}, of which none is known as {' or '.join(map(str.upper, lone))}. {way_out}"
        raise InputError(msg)
    return found


@contextmanager
def saying_which_layer(found: Mapping[str, str | None]) -> Iterator[None]:
    """Let the way out of an error about the counts of a modality name that modality's own argument."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for what, name in found.items():
            if name is not None and f"mdata['{name}']" in message:
                message = re.sub(r"\blayer=", f"{what}_layer=", message)
        raise type(error)(message) from error


def _looked_for(mdata: MuData, what: str) -> str | None:
    """By name, else by var['feature_types']; several that could be meant are an error."""
    by_name = [name for name in mdata.mod if name.lower() in USUAL_NAMES[what]]
    could_be = by_name or [name for name in mdata.mod if _kind_of(mdata, name) == what]
    if len(could_be) > 1:
        msg = f"{listing(could_be, quoted=True)} may all be {what}. Name the one that is meant: {what}={could_be[0]!r}."
        raise InputError(msg)
    return could_be[0] if could_be else None


def _kind_of(mdata: MuData, name: str) -> str | None:
    var = mdata.mod[name].var
    if "feature_types" not in var.columns:
        return None
    types = set(map(str, var["feature_types"].unique()))
    return modality_of_type(types.pop()) if len(types) == 1 else None


def _refuse_twice(found: dict[str, str | None]) -> None:
    names = [name for name in found.values() if name is not None]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"The modality {listing(twice, quoted=True)} cannot be two things at once: {found}."
        raise InputError(msg)


def refuse_shared_names(features: dict[str, tuple[str, ...]]) -> None:
    """Refuse a feature name that is in two modalities: an answer could not say which is meant."""
    owner: dict[str, str] = {}
    for modality, names in features.items():
        both = [name for name in names if name in owner]
        if both:
            msg = (
                f"{len(both):,} features of mdata['{modality}'] have the name of one in mdata['{owner[both[0]]}']: "
                f"{listing(both, quoted=True)}. Rename them, such as mdata['{modality}'].var_names = "
                f"'{modality}:' + mdata['{modality}'].var_names."
            )
            raise InputError(msg)
        owner |= dict.fromkeys(names, modality)
