"""From AnnData or MuData to arrays: a model's inputs, learned at the fit and read from any data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

from anndata import AnnData
from mudata import MuData

from scvi_pp._data.multiome import ModalityCounts, Present, RowNumber, observations
from scvi_pp._data.panels import Panels
from scvi_pp._data.sources import Positive, Share, columns_of
from scvi_pp._errors import InputError, listing


class Inputs(Protocol):
    """A NamedTuple: of sources before reading, of arrays after."""

    @classmethod
    def _make(cls, iterable: Iterable[Any], /) -> Self: ...

    def __iter__(self) -> Iterator[Any]: ...


T = TypeVar("T", bound=Inputs)
OfModalities = ModalityCounts | Present | RowNumber | Panels  # what reads a MuData itself and not its table of cells


def learn(data: AnnData | MuData, sources: T, *, verb: str) -> T:
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
    parts = parts_for(data, sources, verb)
    return type(sources)._make(None if source is None else source.learn(part) for source, part in parts)


def read(data: AnnData | MuData, sources: T, *, verb: str) -> T:
    """Return the arrays that learned sources read from any data, in the same NamedTuple."""
    parts = parts_for(data, sources, verb)
    return type(sources)._make(None if source is None else source.read(part) for source, part in parts)


def parts_for(data: AnnData | MuData, sources: Inputs, verb: str) -> list[tuple[Any, Any]]:
    """Each source with what it reads: the data, or of a MuData the table of its cells."""
    whole = list(sources)
    if not any(isinstance(source, OfModalities) for source in whole):
        check_anndata(data, verb=verb)
        return [(source, data) for source in whole]
    check_mudata(data, verb=verb)
    keys = dict.fromkeys(key for source in whole for key in columns_of(source))
    factors = [source.key for source in whole if isinstance(source, Positive | Share) and source.key is not None]
    table = observations(data, keys, factors)
    return [(source, data if isinstance(source, OfModalities) else table) for source in whole]


def check_annotated(data: object, *, verb: str) -> None:
    """Refuse everything but an AnnData or a MuData."""
    if not isinstance(data, AnnData | MuData):
        msg = f"{verb} takes an AnnData or a MuData, not {type(data).__name__}. Read a file with"
        raise InputError(f"{msg} anndata.read_h5ad(path) or mudata.read_h5mu(path).")


def check_mudata(data: object, *, verb: str) -> None:
    """Refuse everything but a MuData, and say how to make one."""
    if isinstance(data, MuData):
        return
    way = "Make one with pp.organize_multiome" if isinstance(data, AnnData) else "Read a file with mudata.read_h5mu"
    msg = f"{verb} takes a MuData, not {type(data).__name__}. {way}."
    raise InputError(msg)


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
