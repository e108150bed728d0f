"""From AnnData to arrays: a model's inputs, learned at the fit and read from any data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

from anndata import AnnData

from scvi_pp._errors import InputError, listing


class Inputs(Protocol):
    """A NamedTuple: of sources before reading, of arrays after."""

    @classmethod
    def _make(cls, iterable: Iterable[Any], /) -> Self: ...

    def __iter__(self) -> Iterator[Any]: ...


T = TypeVar("T", bound=Inputs)


def learn(data: AnnData, sources: T, *, verb: str) -> T:
    """Return the same sources after each has checked the data of the fit and remembers how to read.

    Parameters
    ----------
    data
        The cells of the fit.
    sources
        A NamedTuple of sources; a field that is None stays None.
    verb
        The public function that was called, as `tl.scvi`, for messages.
    """
    check_anndata(data, verb=verb)
    return type(sources)._make(None if source is None else source.learn(data) for source in sources)


def read(data: AnnData, sources: T, *, verb: str) -> T:
    """Return the arrays that learned sources read from any data, in the same NamedTuple."""
    check_anndata(data, verb=verb)
    return type(sources)._make(None if source is None else source.read(data) for source in sources)


def check_anndata(data: object, *, verb: str) -> None:
    """Refuse everything but an AnnData, and say which part of a MuData to pass."""
    if isinstance(data, AnnData):
        return
    if type(data).__module__.partition(".")[0] == "mudata":
        modalities = list(getattr(data, "mod", {}))
        example = "rna" if "rna" in modalities or not modalities else modalities[0]
        msg = f"{verb} takes an AnnData: pass mdata['{example}']. Modalities: {listing(modalities)}."
        raise InputError(msg)
    msg = f"{verb} takes an AnnData, not {type(data).__name__}. Read a file with anndata.read_h5ad(path)."
    raise InputError(msg)
