"""Fragment counts from read counts of single-cell ATAC-seq."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scvi_pp._data.counts import finding_of, in_memory
from scvi_pp._data.read import check_anndata
from scvi_pp._data.write import check_key, check_writable, write
from scvi_pp._errors import InputError, missing_key

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

BLOCK = 1 << 20  # values looked at together


def reads_to_fragments(
    adata: AnnData, *, layer: str | None = None, key_added: str = "fragments", force: bool = False, copy: bool = False
) -> AnnData | None:
    """Turn read counts of ATAC-seq into fragment counts.

    A transposase cuts DNA into fragments, and each is read from both ends: read counts come in pairs, so that two is far
    more frequent than one. No count distribution looks like that, while fragment counts, half of the reads, are well
    described by a Poisson distribution and say more than whether a region is open (`Martens et al., Nature Methods 2024
    <https://doi.org/10.1038/s41592-023-02112-6>`__). Use it before a model of counts, if the matrix was made by counting
    reads or cut sites, as by Cell Ranger ATAC. A read whose mate lies outside of the region counts as a fragment.

    Fragment counts, or a binary matrix, are refused: halving them would lose what they say.

    Parameters
    ----------
    adata
        Cells and regions, with read counts.
    layer
        The layer that holds the read counts. `X` by default.
    key_added
        Name of the layer for the fragment counts.
    force
        Convert even if the counts do not look like reads, which come in pairs: more ones than twos, or more odd counts
        than even ones. That can happen in small or very sparse data.
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following field:

    `.layers['fragments' | key_added]`
        Half the read counts, rounded up: sparse or dense, and of the same type, as these.

    Raises
    ------
    InputError
        The values are no counts, or do not come in pairs.
    MissingKeyError
        There is no such layer.

    Examples
    --------
    >>> import numpy as np
    >>> import scvi_pp as svp
    >>> adata = svp.datasets.simulate_multiome(100, 50, n_regions=200)["atac"]
    >>> adata.layers["reads"] = adata.X * 2
    >>> svp.pp.reads_to_fragments(adata, layer="reads")
    >>> bool((adata.layers["fragments"] != adata.X).nnz)
    False
    """
    check_anndata(adata, verb="pp.reads_to_fragments")
    key = check_key(key_added)
    if not copy:
        check_writable(adata)
    place = "X" if layer is None else f"layers['{layer}']"
    reads = _ready(_stored(adata, layer, place))
    values = reads.data if sparse.issparse(reads) else reads.ravel(order="K")
    _check_counts(values, place)
    if not force:
        _check_pairs(values, place)
    if sparse.issparse(reads):
        reads.data = _halved(values)
    else:
        reads = _halved(reads)
    target = adata.copy() if copy else adata
    write(target, obsm={}, layers={key: reads}, uns={})
    return target if copy else None


def _stored(adata: AnnData, layer: str | None, place: str) -> Any:
    names = [name for name in adata.layers if isinstance(name, str)]  # newer anndata lists X, as None
    if layer is not None and layer not in names:
        raise missing_key("adata", "layer", layer, names)
    raw = adata.X if layer is None else adata.layers[layer]
    if raw is None:
        raise InputError(f"{place} is empty (None). Pass the layer that holds the read counts (layer=...).")
    return in_memory(raw)


def _ready(raw: Any) -> Any:
    """The values in plain types, each entry once. What is sparse is a copy, to be changed; what is dense is not."""
    if not sparse.issparse(raw):
        return np.asarray(raw)
    raw = raw if raw.format in ("csr", "csc") else raw.tocsr()
    of_arrays = {"csr": sparse.csr_array, "csc": sparse.csc_array}
    of_matrices = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
    kind = (of_arrays if isinstance(raw, sparse.sparray) else of_matrices)[raw.format]  # anndata's views have their own
    matrix = kind((raw.data, raw.indices, raw.indptr), shape=raw.shape, copy=True)
    matrix.sort_indices()
    if not matrix.has_canonical_format:
        matrix = matrix.astype(np.float64)  # a sum may not fit the type of its parts
        matrix.sum_duplicates()
    return matrix


def _check_counts(values: NDArray[Any], place: str) -> None:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{place} holds {values.dtype}, not real numbers. Convert it with .astype('float32').")
    finding = finding_of(values, integers=True)
    if finding:
        raise InputError(f"{place} holds {finding}. Pass the layer that holds the read counts (layer=...).")


def _check_pairs(values: NDArray[Any], place: str) -> None:
    """Refuse counts among which one is not rarer than two, or odd not rarer than even."""
    n_positive = n_ones = n_twos = n_even = 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        block = block[block > 0]
        n_positive += block.size
        n_ones += int((block == 1).sum())
        n_twos += int((block == 2).sum())
        n_even += int((block % 2 == 0).sum())
    if n_positive == 0:
        finding = "holds no count above zero, so there is nothing to convert"
    elif n_ones == n_positive:
        finding = "holds zeros and ones only: it is binary"
    elif n_ones >= n_twos:
        finding = f"holds more ones ({n_ones:,}) than twos ({n_twos:,}): it looks like fragment counts already"
    elif 2 * n_even <= n_positive:
        n_odd = n_positive - n_even
        finding = f"holds no more even counts ({n_even:,}) than odd ones ({n_odd:,}), and reads come in pairs"
    else:
        return
    raise InputError(
        f"{place} {finding}. If these are fragment counts, use them as they are. If they are read counts, pass "
        "force=True to convert them."
    )


def _halved(values: NDArray[Any]) -> NDArray[Any]:
    """Half of each value, rounded up, in the same type."""
    if values.dtype.kind == "b":
        return values.copy()
    if values.dtype.kind in "iu":
        return values // 2 + values % 2  # the largest number of the type plus one would not fit
    return np.ceil(values / 2)
