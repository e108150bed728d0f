"""A fitted model and the cells it knows, wherever they are: in an object, in a file, or the entry of `uns` alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import numpy.typing as npt
from anndata import AnnData
from mudata import MuData

from scvi_pp._data.fitted import FORMAT, Fitted, from_record, model_key, model_keys
from scvi_pp._data.write import key_names
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError

H5_FILES = (".h5ad", ".h5mu")


@dataclass(frozen=True, eq=False)
class Reference:
    """A model, and of the cells that it was fitted to what there is."""

    key: str  # under which results go: that of the fit, or the name of the model where the fit is not told
    stored: Fitted
    sha256: str  # of the stored model
    place: str  # what it is called in messages
    data: AnnData | MuData | None = None  # of a file the table of cells alone
    latent: npt.NDArray[np.float32] | None = None  # (n_obs, n_latent)

    @property
    def has_counts(self) -> bool:
        """Whether the cells can be read again: not those of a file, of which there is the table alone."""
        return self.data is not None and self.data.n_vars > 0

    @property
    def key_added(self) -> str | None:
        """What the fit was given as `key_added`."""
        return None if self.key == self.stored.model else self.key


@dataclass(frozen=True)
class _Wanted:
    """Which model is meant: the one of a name, the one of a checksum, or the only one."""

    key: str | None
    sha256: str | None

    def name(self, uns: Mapping[str, Any]) -> str:
        if self.sha256 is None:
            return model_key(uns, self.key)
        for name in model_keys(uns):
            if str(uns[name]["model"].get("sha256")) == self.sha256:
                return name
        msg = "it does not hold the model that the query was mapped onto. Give that of tl.map_query, or map again."
        raise InputError(msg)


def open_reference(reference: object, key: str | None = None, *, sha256: str | None = None) -> Reference:
    """Return the model named `key` (None: the only one) of an object, of the file of one, or of an entry of `uns`.

    With `sha256` the model that has it, whatever its name. Of a file no more is read than the model, its latent space and
    the table of cells.
    """
    wanted = _Wanted(key, sha256)
    if isinstance(reference, AnnData | MuData):
        return _of_object("the reference", reference, reference.uns, reference.obsm, wanted)
    if isinstance(reference, Mapping):
        return _of_entry("the reference", reference)
    if not isinstance(reference, str | Path):
        msg = (
            f"reference={type(reference).__name__} holds no fitted model. Give the AnnData or MuData of the fit, the "
            "path of its file, or its entry of uns: reference=adata.uns['scvi']."
        )
        raise InputError(msg)
    path = Path(reference).expanduser()
    if path.suffix in H5_FILES and path.is_file():
        with h5py.File(path, "r") as file:
            return _of_file(path, file, wanted)
    if path.suffix == ".safetensors" and path.is_file():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return _of_entry(f"'{path}'", {"model": {"format": FORMAT, "sha256": digest, "path": str(path)}})
    if path.is_dir():
        import zarr

        return _of_file(path, zarr.open_group(str(path), mode="r"), wanted)
    finding = (
        "is none of the files that hold a model (h5ad, h5mu, zarr, safetensors)" if path.exists() else "is not there"
    )
    raise InputError(f"reference='{path}' {finding}.")


def _of_file(path: Path, file: Any, wanted: _Wanted) -> Reference:
    if "uns" not in file or "obs" not in file:
        raise InputError(f"reference='{path}' holds neither an AnnData nor a MuData.")
    cells = AnnData(obs=anndata.io.read_elem(file["obs"]))
    obsm = file["obsm"] if "obsm" in file else {}
    return _of_object(f"'{path}'", cells, anndata.io.read_elem(file["uns"]), obsm, wanted)


def _of_entry(place: str, entry: Mapping[str, Any]) -> Reference:
    with _saying(place):
        stored = from_record({"model": entry}, "model")
    return Reference(stored.model, stored, str(entry["model"]["sha256"]), place)


def _of_object(
    place: str, data: AnnData | MuData, uns: Mapping[str, Any], obsm: Mapping[str, Any], wanted: _Wanted
) -> Reference:
    with _saying(place):
        name = wanted.name(uns)
        stored = from_record(uns, name)
    obsm_key = key_names(stored.model, None if name == stored.model else name)[0]
    latent = np.asarray(obsm[obsm_key], dtype=np.float32) if obsm_key in obsm else None
    if latent is not None and latent.shape != (data.n_obs, stored.hyperparameters.get("n_latent")):
        latent = None
    return Reference(name, stored, str(uns[name]["model"]["sha256"]), place, data, latent)


@contextmanager
def _saying(place: str) -> Iterator[None]:
    """Let errors about a model say whose it is."""
    try:
        yield
    except (InputError, MissingKeyError, ModelRecordError) as error:
        raise type(error)(f"{place}: {error}") from error
