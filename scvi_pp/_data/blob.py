"""One blob of bytes that is a whole fitted model: named arrays and one JSON text, in the safetensors format.

Reading takes nothing on trust: every length, offset, type and shape is checked against the bytes that are there
before any memory is taken, and nothing is ever executed. The format is eight bytes of header length, a JSON header
that gives type, shape and place of each array, and the arrays without holes or overlaps
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from scvi_pp._errors import ModelRecordError

TEXT = "scvi_pp"  # the entry of safetensors' metadata that holds our JSON
LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
MOST_DIMENSIONS = 32
LARGEST_DIMENSION = 2**40
DTYPES: Mapping[str, npt.DTypeLike] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


STORED = frozenset(np.dtype(dtype) for dtype in DTYPES.values())


class _Place(NamedTuple):
    """Where one array lies among the bytes after the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def pack(description: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Return the blob, uint8 (n_bytes,), read-only; the same input gives the same bytes."""
    text = json.dumps(description, separators=(",", ":"), default=_plain)
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in contiguous.items():
        if array.dtype.newbyteorder("<") not in STORED:
            msg = f"array {name!r} has the type {array.dtype}, which a model cannot store."
            raise TypeError(msg)
    return np.frombuffer(save(contiguous, metadata={TEXT: text}), dtype=np.uint8)


def _plain(value: object) -> object:
    """Turn numpy scalars into what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    msg = f"{type(value).__name__} cannot be stored in a model."
    raise TypeError(msg)


def unpack(blob: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return the description and the arrays, each with memory of its own. `ModelRecordError` for anything odd."""
    header, start = _header(blob)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(TEXT), str):
        msg = "its header has no description of a model"
        raise ModelRecordError(msg)
    description = _json(metadata[TEXT], "description")
    data = blob[start:]
    places = {name: _place(name, entry) for name, entry in header.items()}
    _refuse_holes_and_overlaps(places, data.size)
    return description, {name: _array(name, place, data) for name, place in places.items()}


def _header(blob: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """Return the header and where the arrays start; the length is checked before the header is touched."""
    if blob.size < LENGTH_BYTES:
        msg = f"it is {blob.size} bytes long, too short for a model"
        raise ModelRecordError(msg)
    length = int.from_bytes(blob[:LENGTH_BYTES].tobytes(), "little")
    start = LENGTH_BYTES + length
    if length > LARGEST_HEADER or start > blob.size:
        msg = f"its header claims {length:,} bytes, of {blob.size:,} in all"
        raise ModelRecordError(msg)
    try:
        text = blob[LENGTH_BYTES:start].tobytes().decode()
    except UnicodeDecodeError as error:
        msg = "its header is not UTF-8 text"
        raise ModelRecordError(msg) from error
    return _json(text, "header"), start


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, or nested too deep
        msg = f"its {what} is not valid JSON"
        raise ModelRecordError(msg) from error
    if not isinstance(value, dict):
        msg = f"its {what} is not a JSON object"
        raise ModelRecordError(msg)
    return value


def _place(name: str, entry: object) -> _Place:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        msg = f"array {name[:80]!r} is not described by dtype, shape and data_offsets"
        raise ModelRecordError(msg)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        msg = f"array {name[:80]!r} has an unknown type"
        raise ModelRecordError(msg)
    if not _are_sizes(shape, MOST_DIMENSIONS, LARGEST_DIMENSION) or not _are_sizes(offsets, 2, 2**63):
        msg = f"array {name[:80]!r} has an impossible shape or place"
        raise ModelRecordError(msg)
    place = _Place(np.dtype(DTYPES[dtype]), tuple(shape), *offsets) if len(offsets) == 2 else None
    if place is None or place.end - place.begin != math.prod(place.shape) * place.dtype.itemsize:
        msg = f"array {name[:80]!r} has a shape that does not fit its bytes"
        raise ModelRecordError(msg)
    return place


def _are_sizes(values: object, most: int, largest: int) -> bool:
    """Tell whether this is a short list of ints from 0 to `largest`; True and False are no sizes."""
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(type(value) is int and 0 <= value <= largest for value in values)


def _refuse_holes_and_overlaps(places: Mapping[str, _Place], n_bytes: int) -> None:
    position = 0
    for place in sorted(places.values(), key=lambda place: (place.begin, place.end)):
        if place.begin != position:
            break
        position = place.end
    else:
        if position == n_bytes:
            return
    msg = f"its arrays do not fill its {n_bytes:,} bytes one after the other"
    raise ModelRecordError(msg)


def _array(name: str, place: _Place, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    raw = data[place.begin : place.end].copy()
    if place.dtype == np.bool_ and raw.size and raw.max() > 1:
        msg = f"array {name[:80]!r} holds bytes that are neither true nor false"
        raise ModelRecordError(msg)
    if math.prod(place.shape) == 0:  # NumPy refuses some empty shapes by the product of the other dimensions
        return _empty(name, place)
    return raw.view(place.dtype).reshape(place.shape)


def _empty(name: str, place: _Place) -> npt.NDArray[Any]:
    try:
        return np.empty(place.shape, dtype=place.dtype)
    except (ValueError, MemoryError) as error:
        msg = f"array {name[:80]!r} has an impossible shape"
        raise ModelRecordError(msg) from error
