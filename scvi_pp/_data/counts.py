"""The matrix a model is fitted on: `X` or a layer, its genes matched by name and all of its values checked.

Genes here are whatever the columns are: regions of chromatin too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset

from scvi_pp._data.columns import check_texts
from scvi_pp._errors import InputError, listing, missing_key

LARGEST_COUNT = 2**24  # float32 holds every whole number up to here, and not the next one
LARGEST_LOG = 50.0  # expm1 of more is no number of molecules
BLOCK = 1 << 20  # values checked at a time, to keep the temporary arrays in cache
USUAL_COUNT_LAYERS = ("counts", "raw_counts", "count", "raw", "umi", "spliced")


@dataclass(frozen=True)
class Counts:
    """Counts of `X` or of a layer, as a sparse matrix over the modelled genes.

    `mask_var` chooses the genes at the fit; from then on they are found by name, whatever their order and whichever
    other genes the data has. `integers=False` takes any finite values, for a normal likelihood. Genes that are `absent`
    need not be there, and then have no counts.
    """

    layer: str | None = None
    mask_var: str | None = None
    integers: bool = True
    var_names: tuple[str, ...] | None = None
    absent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.layer, "layer", "layer")
        _check_name(self.mask_var, "mask_var", "var column")
        _check_integers(self.integers)
        if self.var_names is not None:
            check_texts(self.var_names, "Counts.var_names")
        if self.var_names == ():
            msg = "Counts.var_names is empty: a model needs at least one feature."
            raise InputError(msg)
        check_texts(self.absent, "Counts.absent")

    @property
    def place(self) -> str:
        """Where the values come from, for messages."""
        return "X" if self.layer is None else f"layers['{self.layer}']"

    def learn(self, data: AnnData) -> Self:
        """Check every value and return a copy that knows the genes."""
        _refuse_empty(data)
        _refuse_repeated_genes(data)
        mask = _gene_mask(data, self.mask_var)
        learned = replace(self, var_names=tuple(str(name) for name in data.var_names[mask]))
        learned._checked(data)
        return learned

    def read(self, data: AnnData) -> sp.csr_matrix:
        """Return the modelled genes of these cells, float32 CSR (n_obs, n_modelled), sorted, zeros not stored.

        It may share memory with the data, and is then read-only.
        """
        return self._widened(csr(self._checked(data)), data)

    def _checked(self, data: AnnData) -> Any:
        """Return the modelled genes as they are stored, after a look at every value; may be the user's memory."""
        _refuse_empty(data)
        matrix = _plain(_stored(data, self.layer, self.place), self._columns(data), place=self.place)
        finding = finding_of(_values(matrix), integers=self.integers)
        if finding:
            msg = f"{self.place} holds {finding}. {_way_out(data, self, finding)}"
            raise InputError(msg)
        return matrix

    def _columns(self, data: AnnData) -> npt.NDArray[np.intp] | None:
        """Return where the modelled genes that are there are in the data, None if they are all of it in this order."""
        if self.var_names is None:
            msg = "Counts has not learned from any data: call its learn(data) first and read with what that returns."
            raise InputError(msg)
        if len(self.var_names) == data.n_vars and list(self.var_names) == list(data.var_names):
            return None
        columns = _places(self.var_names, data)
        known_to_lack = set(self.absent)
        lacking = [name for name in lacking_features(self.var_names, data) if name not in known_to_lack]
        if lacking:
            raise InputError(message_of_lacking(lacking, self.var_names, data))
        return columns[columns >= 0]

    def _widened(self, counts: sp.csr_matrix, data: AnnData) -> sp.csr_matrix:
        """Return the counts with an empty column for every modelled gene that is not there."""
        if not self.absent or self.var_names is None:
            return counts
        found = np.flatnonzero(_places(self.var_names, data) >= 0)
        indices = found.astype(counts.indices.dtype)[counts.indices]
        return sp.csr_matrix((counts.data, indices, counts.indptr), shape=(counts.shape[0], len(self.var_names)))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        described: dict[str, Any] = {
            "kind": "Counts",
            "layer": self.layer,
            "mask_var": self.mask_var,
            "integers": self.integers,
            "var_names": self.var_names,
        }
        return described | ({"absent": self.absent} if self.absent else {})


def _check_name(value: object, argument: str, noun: str) -> None:
    if value is not None and not isinstance(value, str):
        msg = f"{argument} takes the name of a {noun}, not {value!r}."
        raise InputError(msg)


def _check_integers(value: object) -> None:
    if not isinstance(value, bool):
        msg = "Counts.integers is True or False."
        raise InputError(msg)


def csr(matrix: Any) -> sp.csr_matrix:
    """Return a matrix as float32 CSR, sorted, zeros not stored; in the same memory where that is what it is."""
    if isinstance(matrix, np.ndarray):
        n_rows = max(1, BLOCK // max(1, matrix.shape[1]))  # at a time: scipy needs ten times a dense matrix's memory
        starts = range(0, matrix.shape[0], n_rows)
        blocks = [sp.csr_matrix(matrix[start : start + n_rows].astype(np.float32)) for start in starts]
        return sp.csr_matrix(sp.vstack(blocks, format="csr"))
    rows = matrix.tocsr()
    values = rows.data[: rows.nnz].astype(np.float32, copy=False).view()
    counts = sp.csr_matrix((values, rows.indices[: rows.nnz], rows.indptr.view()), shape=rows.shape)
    if all(block.all() for block in _blocks(values)):
        for part in (counts.data, counts.indices, counts.indptr):
            part.flags.writeable = False  # these may be the user's
        return counts
    counts = counts.copy()
    counts.eliminate_zeros()
    return counts


def _plain(raw: Any, columns: npt.NDArray[np.intp] | None = None, *, place: str = "The matrix") -> Any:
    """Return a dense array, or a CSR or CSC matrix that is sorted and without duplicates, of these columns."""
    if np.ma.is_masked(raw):
        msg = f"{place} is a masked array with masked values. Fill them first: matrix.filled(0)."
        raise InputError(msg)
    matrix = _compressed(raw) if sp.issparse(raw) else np.asarray(raw)
    if matrix.dtype.kind not in "biuf":
        msg = f"{place} holds {matrix.dtype}, not real numbers. Convert it with .astype('float32')."
        raise InputError(msg)
    chosen = matrix if columns is None else matrix[:, columns]
    return _canonical(chosen) if sp.issparse(chosen) else chosen


def _compressed(raw: Any) -> Any:
    """Return a new CSR or CSC matrix around the same arrays: scipy notes what it learns about one in the object."""
    matrix = raw if raw.format in ("csr", "csc") else raw.tocsr()
    kind = sp.csr_matrix if matrix.format == "csr" else sp.csc_matrix
    return kind((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _canonical(matrix: Any) -> Any:
    if matrix.has_canonical_format:
        return matrix
    arrays = (matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy())
    matrix = type(matrix)(arrays, shape=matrix.shape)
    matrix.sort_indices()
    if not matrix.has_canonical_format:
        matrix = matrix.astype(np.float64)  # a sum may not fit the type of its parts
        matrix.sum_duplicates()
    return matrix


def _values(matrix: Any) -> npt.NDArray[Any]:
    """Return all stored values, (n_values,), without a copy where there is none to make."""
    values: npt.NDArray[Any] = matrix.ravel(order="K") if isinstance(matrix, np.ndarray) else matrix.data[: matrix.nnz]
    return values


def finding_of(values: npt.NDArray[Any], *, integers: bool) -> str:
    """Return what makes these values unusable, or nothing. Looks at every one."""
    if values.dtype.kind in "bu" and (values.size == 0 or values.max() <= LARGEST_COUNT):
        return ""
    smallest, largest, whole = 0.0, 0.0, True
    for block in _blocks(values):
        low, high = float(block.min()), float(block.max())
        if not np.isfinite(low) or not np.isfinite(high):  # NaN wins both
            return f"{'NaN' if np.isnan(low) else 'infinite'} values"
        smallest, largest = min(smallest, low), max(largest, high)
        whole = whole and (block.dtype.kind in "bui" or bool((np.rint(block) == block).all()))
    if max(-smallest, largest) > float(np.finfo(np.float32).max):
        return "values too large for float32"
    return _finding(smallest, largest, whole=whole) if integers else ""


def _finding(smallest: float, largest: float, *, whole: bool) -> str:
    if smallest < 0:
        guess = "" if whole else ": it looks scaled"
        return f"negative values (smallest {smallest:g}){guess}, and the model needs counts"
    if not whole:
        guess = "it looks log-normalised" if largest < LARGEST_LOG else "it looks normalised"
        return f"values that are not whole numbers (largest {largest:g}): {guess}, and the model needs counts"
    if largest > LARGEST_COUNT:
        return f"the count {largest:.0f}, and float32 holds whole numbers exactly only up to {LARGEST_COUNT}"
    return ""


def _blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, values.size, BLOCK):
        yield values[start : start + BLOCK]


def _way_out(data: AnnData, source: Counts, finding: str) -> str:
    """Say where the counts are, if another place of the same object has them."""
    if not source.integers:
        return "Replace them, or leave those cells or features out."
    layers = [name for name in data.layers if isinstance(name, str)]
    for name in sorted(layers, key=lambda name: (name not in USUAL_COUNT_LAYERS, name)):
        if name != source.layer and _holds_counts(data.layers[name]):
            return f"layers['{name}'] holds counts: pass layer='{name}'."
    if source.layer is not None and data.X is not None and _holds_counts(data.X):
        return "X holds counts: leave layer out."
    if data.raw is not None and _holds_counts(data.raw.X):
        return "raw holds counts: adata.layers['counts'] = adata.raw[:, adata.var_names].X, then pass layer='counts'."
    if finding.startswith(("NaN", "infinite")):
        return "Replace them, or leave those cells or features out."
    if finding.startswith("the count"):
        return "No cell has that many molecules of one kind: check how the matrix was made."
    return "Pass the layer that holds the counts before any normalisation (layer=...)."


def _holds_counts(raw: Any) -> bool:
    try:
        values = _values(_plain(in_memory(raw)))
    except (InputError, TypeError, ValueError):
        return False
    return bool(values.any()) and not finding_of(values, integers=True)


def in_memory(raw: Any) -> Any:
    """Bring a matrix that lies in a file, in chunks or on a GPU into host memory."""
    if isinstance(raw, CSRDataset | CSCDataset):
        return raw.to_memory()
    libraries = {ancestor.__module__.partition(".")[0] for ancestor in type(raw).__mro__}  # views derive from theirs
    if "dask" in libraries:
        return in_memory(raw.compute())
    if libraries & {"cupy", "cupyx"}:
        return raw.get()
    if libraries & {"h5py", "zarr"}:
        return raw[...]
    return raw


def _stored(data: AnnData, layer: str | None, place: str) -> Any:
    names = [name for name in data.layers if isinstance(name, str)]
    if layer is not None and layer not in names:
        raise missing_key("adata", "layer", layer, names)
    raw = data.X if layer is None else data.layers[layer]
    if raw is None:
        known = f" Layers: {listing(names)}." if names else ""
        msg = f"{place} is empty (None). Pass layer= to read a layer.{known}"
        raise InputError(msg)
    return in_memory(raw)


def _refuse_empty(data: AnnData) -> None:
    if data.n_obs == 0 or data.n_vars == 0:
        msg = f"The data has {data.n_obs} cells and {data.n_vars} features. Pass data with at least one of each."
        raise InputError(msg)


def _refuse_repeated_genes(data: AnnData) -> None:
    if not data.var_names.is_unique:
        twice = data.var_names[data.var_names.duplicated()].unique()
        names = listing(twice, limit=3, quoted=True)
        msg = f"var_names holds {names} more than once. Call adata.var_names_make_unique()."
        raise InputError(msg)


def _gene_mask(data: AnnData, mask_var: str | None) -> npt.NDArray[np.bool_]:
    if mask_var is None:
        return np.ones(data.n_vars, dtype=bool)
    if mask_var not in data.var.columns:
        raise missing_key("var", "column", mask_var, [str(name) for name in data.var.columns])
    column = data.var[mask_var]
    n_missing = int(column.isna().sum())
    if n_missing:
        counted = f"{n_missing:,} of {data.n_vars:,} features"
        msg = f"var['{mask_var}'] is missing (NaN) for {counted}. Fill it with True or False."
        raise InputError(msg)
    if not pd.api.types.is_bool_dtype(column.dtype) and not all(isinstance(v, bool | np.bool_) for v in column):
        msg = f"var['{mask_var}'] holds {column.dtype}, not True and False. Convert it with .astype(bool)."
        raise InputError(msg)
    mask: npt.NDArray[np.bool_] = column.to_numpy(dtype=bool)
    if not mask.any():
        msg = f"var['{mask_var}'] is False for all {data.n_vars:,} features. Choose some, or leave mask_var out."
        raise InputError(msg)
    return mask


def _places(names: tuple[str, ...], data: AnnData) -> npt.NDArray[np.intp]:
    """Return where these features are in the data, -1 where they are not."""
    _refuse_repeated_genes(data)
    columns: npt.NDArray[np.intp] = data.var_names.astype(str).get_indexer(pd.Index(names))
    return columns


def lacking_features(names: tuple[str, ...], data: AnnData) -> list[str]:
    """Return which of these features the data has not."""
    return [name for name, column in zip(names, _places(names, data), strict=True) if column < 0]


def message_of_lacking(lacking: list[str], wanted: tuple[str, ...], data: AnnData, *, way_out: str = "") -> str:
    """Say which features are not there, and what may be the reason."""
    message = f"var_names lacks {len(lacking):,} of the model's {len(wanted):,} features: {listing(lacking, limit=5)}. "
    if 2 * len(lacking) > len(wanted):
        here = listing(data.var_names[:3], limit=3)
        guess = f"The names here ({here}, ...) may be of another kind: rename them as in the data of the fit."
    else:
        guess = "Pass the data with all of them, before any selection."
    return f"{message}{guess} {way_out}".rstrip()
