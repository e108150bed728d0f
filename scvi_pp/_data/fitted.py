"""A fitted model and the one entry of `uns` that is its file.

Everything that rebuilds the model lies in one blob: `ad.concat(uns_merge=...)` merges nested dicts leaf by leaf, and
arrays stored one by one could come from two models afterwards.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scvi_pp import _logging
from scvi_pp._data.blob import pack, unpack
from scvi_pp._data.sources import Source, source_from_dict
from scvi_pp._data.write import check_key
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError, did_you_mean, listing

JSON: TypeAlias = "bool | int | float | str | None | Sequence[JSON] | Mapping[str, JSON]"

FORMAT = "scvi_pp/1"
LARGEST_QUIET_BLOB = 64_000_000  # bytes; a larger one is reported with the way to an external file
FIELDS = ("format", "model", "sources", "hyperparameters", "facts", "params")  # of the blob's description
WEIGHTS, HISTORY = "weights.", "history."  # prefixes of the arrays in the blob


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model after its fit, as plain values: what it read, how it was built, what it learned, how that went."""

    model: str
    sources: dict[str, Source | None]  # None is what the model can read and this one does not
    hyperparameters: dict[str, JSON]
    weights: dict[str, npt.NDArray[Any]]
    facts: dict[str, JSON]
    history: dict[str, npt.NDArray[Any]]
    params: dict[str, bool | int | float | str]

    @property
    def n_trained_rows(self) -> int:
        """Rows that training took, over all epochs."""
        n_obs, n_epochs = self.facts["n_obs"], self.facts["n_epochs"]
        return int(n_obs) * int(n_epochs)  # type: ignore[arg-type]


def check_save_model(save_model: object) -> bool | Path:
    """Return `save_model` as a bool or an absolute path that can be written. To be called before any training."""
    if isinstance(save_model, bool):
        return save_model
    if not isinstance(save_model, str | Path) or not str(save_model):
        msg = f"save_model takes True, False or a path, not {save_model!r}."
        raise InputError(msg)
    path = Path(save_model).expanduser().absolute()
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        finding = f"the folder '{path.parent}' is missing or read-only"
        msg = f"save_model='{save_model}': {finding}. Make it, or choose another."
        raise InputError(msg)
    if path.exists() and not _is_blob_file(path):
        msg = f"save_model='{save_model}' is there already and is no model, so it is left alone. Choose another path."
        raise InputError(msg)
    return path


def _is_blob_file(path: Path) -> bool:
    """Tell whether a file begins as safetensors do, so that nothing else is ever replaced (a data set, say)."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def to_record(fitted: Fitted, *, save_model: bool | str | Path = True) -> dict[str, Any]:
    """Return the entry of `uns` for a fitted model.

    Parameters
    ----------
    fitted
        The model.
    save_model
        True puts it into the entry, a path into a file of its own (safetensors) that the entry names, False leaves
        it out: results can then be read, but nothing new computed.

    Returns
    -------
    `{"params": readable, "history": 1-D float32, "model": {"format", "sha256", "blob" or "path"}}`.
    """
    target = check_save_model(save_model)
    params = _flat(fitted.params)
    history = {check_key(name, argument="history"): _curve(values) for name, values in fitted.history.items()}
    record: dict[str, Any] = {"params": params, "history": history}
    if target is False:
        return record
    blob = pack(_description(fitted, params), _arrays(fitted, history))
    model: dict[str, Any] = {"format": FORMAT, "sha256": _sha256(blob)}
    if isinstance(target, Path):
        _write_file(target, blob)
        record["model"] = {**model, "path": str(target)}
    else:
        _report_size(blob.nbytes)
        record["model"] = {**model, "blob": blob}
    return record


def model_keys(uns: Mapping[str, Any]) -> list[str]:
    """Return the names of the models that are stored here and can be asked."""
    return [name for name in _ours(uns) if "model" in uns[name]]


def model_key(uns: Mapping[str, Any], key: str | None, *, model: str | None = None) -> str:
    """Return the name of the model that is meant: the one given, or that of the only model there is.

    With `model` the only one of that kind, if there is just one.

    Raises
    ------
    MissingKeyError
        None is given, and there is none.
    InputError
        None is given, and there are several.
    """
    if key is not None:
        return key
    ours = _ours(uns)
    if model is not None:
        of_kind = [name for name in ours if uns[name].get("params", {}).get("model") == model]
        ours = of_kind if len(of_kind) == 1 else ours
    if not ours:
        msg = "uns holds no fitted model: fit one (tl.scvi, ...). A concat drops uns unless uns_merge is given."
        raise MissingKeyError(msg)
    if len(ours) > 1:
        msg = f"uns holds {len(ours)} fitted models. Say which one with key=. Models here: {listing(ours)}."
        raise InputError(msg)
    return ours[0]


def from_record(uns: Mapping[str, Any], key: str) -> Fitted:
    """Return the model stored in `uns[key]`, after checking that it is whole.

    Raises
    ------
    MissingKeyError
        There is no such entry.
    ModelRecordError
        The entry is not ours, holds no model, or the model is damaged, mixed with another, or newer than this code.
    """
    place = f"uns['{key}']"
    model = _model_entry(uns, key, place)
    _check_format(_text(model.get("format")), place)
    blob = _blob(model, place)
    expected, found = _text(model.get("sha256")), _sha256(blob)
    if expected is None or expected.lower() != found:
        msg = (
            f"{place}: the stored model does not match its checksum (sha256). It was damaged or edited, or a concat "
            f"mixed two models. Take the entry from the original file: adata.uns['{key}'] = original.uns['{key}']."
        )
        raise ModelRecordError(msg)
    try:
        return _fitted(*unpack(blob))
    except (ModelRecordError, InputError) as error:
        msg = f"{place}: the stored model cannot be read: {error}. Take the entry from the original file, or fit again."
        raise ModelRecordError(msg) from error


def history_from_record(uns: Mapping[str, Any], key: str) -> dict[str, npt.NDArray[np.float32]]:
    """Return the training curves of `uns[key]`, which are there even if the model itself was not saved."""
    history = _entry(uns, key, f"uns['{key}']").get("history")
    if not isinstance(history, Mapping):
        msg = f"uns['{key}']['history'] is missing: it was removed, or dropped by a concat. Fit again to have it."
        raise ModelRecordError(msg)
    try:
        return {str(name): _curve(values) for name, values in history.items()}
    except InputError as error:
        msg = f"uns['{key}']['history']: {error}"
        raise ModelRecordError(msg) from error


# ---- writing


def _flat(params: Mapping[str, object]) -> dict[str, bool | int | float | str]:
    """Keep scalars and strings, join lists, leave out None: what every file format holds and a reader understands."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in params.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if plain is None:
            continue
        if isinstance(plain, list | tuple):
            plain = ", ".join(str(item) for item in plain)
        kept = isinstance(plain, bool | float | str) or (isinstance(plain, int) and abs(plain) < 2**63)
        flat[check_key(name, argument="params")] = plain if kept else str(plain)  # type: ignore[assignment]
    return flat


def _curve(values: object) -> npt.NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # a loss beyond float32 is infinite in the plot, which is right
            curve = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        msg = f"a training curve holds something else than numbers ({error})."
        raise InputError(msg) from error
    if curve.ndim != 1:
        msg = f"a training curve has {curve.ndim} dimensions instead of one."
        raise InputError(msg)
    return curve


def _description(fitted: Fitted, params: Mapping[str, object]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": fitted.model,
        "sources": {name: None if source is None else source.to_dict() for name, source in fitted.sources.items()},
        "hyperparameters": fitted.hyperparameters,
        "facts": fitted.facts,
        "params": params,
    }


def _arrays(fitted: Fitted, history: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    weights = {WEIGHTS + name: array for name, array in fitted.weights.items()}
    return weights | {HISTORY + name: curve for name, curve in history.items()}


def _sha256(blob: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(blob.data).hexdigest()


def _report_size(n_bytes: int) -> None:
    if n_bytes > LARGEST_QUIET_BLOB:
        _logging.info(
            f"The fitted model takes {n_bytes / 1e6:.0f} MB in adata.uns. save_model='model.safetensors' puts it into "
            f"a file of its own, save_model=False leaves it out."
        )


def _write_file(path: Path, blob: npt.NDArray[np.uint8]) -> None:
    """Write beside the target and rename: whoever opens the path finds the old file or the new one, never half."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with draft.open("xb") as file:
            file.write(blob.data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


# ---- reading


def _entry(uns: Any, key: object, place: str) -> Mapping[str, Any]:
    ours = _ours(uns)
    if not isinstance(key, str) or key not in uns:
        known = f"Models here: {listing(ours)}." if ours else "It holds no fitted model: fit one (tl.scvi)."
        msg = f"uns has no key '{key}'.{did_you_mean(key, ours)} {known} A concat drops uns unless uns_merge is given."
        raise MissingKeyError(msg)
    if key not in ours:
        known = f"Models here: {listing(ours)}." if ours else "Fit a model first (tl.scvi)."
        msg = f"{place} was not written by scvi_pp, or too little of it is left. {known}"
        raise ModelRecordError(msg)
    entry: Mapping[str, Any] = uns[key]
    return entry


def _ours(uns: object) -> list[str]:
    """The names of our entries."""
    if not isinstance(uns, Mapping):
        msg = f"uns is a {type(uns).__name__}, not a dict."
        raise ModelRecordError(msg)
    return [str(name) for name in uns if _is_ours(uns[name])]


def _is_ours(entry: object) -> bool:
    """Tell our entries from those of others, which may have `params` too (as `uns['neighbors']` does)."""
    if not isinstance(entry, Mapping):
        return False
    model = entry.get("model")
    if isinstance(model, Mapping):
        return "sha256" in model or "blob" in model or (_text(model.get("format")) or "").startswith("scvi_pp/")
    return isinstance(entry.get("params"), Mapping) and isinstance(entry.get("history"), Mapping)


def _model_entry(uns: object, key: object, place: str) -> Mapping[str, Any]:
    model = _entry(uns, key, place).get("model")
    if isinstance(model, Mapping) and "sha256" in model and ("blob" in model or "path" in model):
        return model
    msg = (
        f"{place} holds no model: it was fitted with save_model=False, or the model was dropped by a concat of "
        f"different models. Fit again, or take the entry from the original file."
    )
    raise ModelRecordError(msg)


def _text(value: object) -> str | None:
    """Return a str, also from the 0-d arrays that some file readers give."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return str(value) if isinstance(value, str) else None


def _check_format(found: str | None, place: str) -> None:
    if found == FORMAT:
        return
    version = re.fullmatch(r"scvi_pp/([0-9]{1,6})", found or "")
    if version and int(version[1]) > int(FORMAT.partition("/")[2]):
        msg = f"{place} was written by a newer scvi_pp ({found}; this one reads {FORMAT}). Update scvi_pp."
    else:
        msg = f"{place} has the unknown format {(found or '')[:80]!r}; this scvi_pp reads {FORMAT}. Fit again."
    raise ModelRecordError(msg)


def _blob(model: Mapping[str, Any], place: str) -> npt.NDArray[np.uint8]:
    if "blob" in model and "path" in model:
        msg = f"{place} holds a model and the path of another: a concat mixed two fits. Take the original entry."
        raise ModelRecordError(msg)
    if "path" in model:
        return _file(_text(model["path"]), place)
    blob = model["blob"]
    if not isinstance(blob, np.ndarray) or blob.dtype != np.uint8 or blob.ndim != 1:
        msg = f"{place}: the stored model is not a 1-D array of bytes (uint8). Take the entry from the original file."
        raise ModelRecordError(msg)
    return np.ascontiguousarray(np.asarray(blob))


def _file(path: str | None, place: str) -> npt.NDArray[np.uint8]:
    way_out = f"Put the file back, or set adata.{place}['model']['path'] to where it is."
    if path is None:
        msg = f"{place}: the path of the model's file is not text. {way_out}"
        raise ModelRecordError(msg)
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a device or a pipe may never end
            msg = f"{place}: the model's file '{path}' is not a regular file. {way_out}"
            raise ModelRecordError(msg)
        return np.fromfile(path, dtype=np.uint8)
    except ModelRecordError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        msg = f"{place}: the model's file '{path}' cannot be read ({error}). {way_out}"
        raise ModelRecordError(msg) from error


def _fitted(description: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Fitted:
    """Return the model if the description has every field in the right type, and only arrays we know."""
    kinds = {name: str if name in ("format", "model") else dict for name in FIELDS}
    if set(description) != set(FIELDS) or not all(isinstance(description[n], kind) for n, kind in kinds.items()):
        msg = "its description lacks a field or has one of a wrong type"
        raise ModelRecordError(msg)
    if description["format"] != FORMAT:
        msg = "its description is of another format than the entry says"
        raise ModelRecordError(msg)
    if not all(isinstance(value, bool | int | float | str) for value in description["params"].values()):
        msg = "its params are not flat"
        raise ModelRecordError(msg)
    if not all(name.startswith((WEIGHTS, HISTORY)) for name in arrays):
        msg = "it holds arrays that are neither weights nor history"
        raise ModelRecordError(msg)
    return Fitted(
        model=description["model"],
        sources={
            name: None if stored is None else source_from_dict(stored)
            for name, stored in description["sources"].items()
        },
        hyperparameters=description["hyperparameters"],
        weights=_with_prefix(arrays, WEIGHTS),
        facts=description["facts"],
        history={name: _curve(values) for name, values in _with_prefix(arrays, HISTORY).items()},
        params=description["params"],
    )


def _with_prefix(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
