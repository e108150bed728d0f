"""A training run on disk, complete enough that continuing it gives the bits of an uninterrupted run.

One safetensors file: tensors as they are, everything else as JSON in its header. Written beside the old one and moved
into place, so that a kill at any moment leaves a whole file.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    Facts = Mapping[str, Any]

FORMAT = "scvi_pp-checkpoint/1"


def write(path: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Replace the file at `path`, all or nothing."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "sha256": _sha256(tensors), "facts": json.dumps(facts)}
    content = save(tensors, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format')!r}")
        if header["sha256"] != _sha256(tensors):
            raise ValueError("its tensors do not match their checksum")
        return tensors, json.loads(header["facts"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        msg = f"checkpoint={str(path)!r} is no checkpoint of scvi_pp ({error}). Delete it or name another file."
        raise InputError(msg) from error


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].numpy().tobytes())
    return sha.hexdigest()


def digest(arrays: tuple[Any, ...]) -> str:
    """A fingerprint of the data of a run."""
    sha = hashlib.sha256()
    for array in arrays:
        parts = [] if array is None else [array] if isinstance(array, np.ndarray) else [array.indptr, array.indices]
        parts += [array.data] if len(parts) == 2 else []
        for part in parts:
            sha.update(str((part.shape, part.dtype)).encode())
            sha.update(np.ascontiguousarray(part).data)
    return sha.hexdigest()


def check_same_run(path: Path, stored: Facts, wanted: Facts) -> None:
    """Refuse to continue a run that was called otherwise."""
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            change = f"{name} was {stored.get(name)!r}, now {wanted.get(name)!r}"
            change = "the data differ" if name == "data" else change
            msg = f"checkpoint={str(path)!r} is of another run: {change}. Delete it or name another file."
            raise InputError(msg)
