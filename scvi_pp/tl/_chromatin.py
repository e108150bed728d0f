"""What the verbs of chromatin share: how wide a network is, what is said of the counts, and parts of docstrings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scvi_pp import _logging
from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy.sparse import csr_matrix

ENTRIES_AT_ONCE = 1 << 20  # looked at together, to keep the temporary arrays in cache

COLUMNS = """\
batch_key
    Column(s) of `.obs` that name the batch, whose effect is to be removed: donor, run, chemistry. Several columns
    count as one, with a batch for every combination."""

COVARIATES = """\
categorical_covariate_keys
    Further columns of `.obs` whose effects are to be removed, each on its own: sex, sort gate.
continuous_covariate_keys
    Numeric columns of `.obs` whose effects are to be removed: share of fragments in promoters. They are standardised
    for you.
mask_var
    Boolean column of `.var` that chooses the regions to model."""

WIDTHS = """\
n_latent
    Dimensions of the latent space; by default the root of `n_hidden`, rounded down.
n_hidden
    Units of each hidden layer; by default the root of the number of regions, rounded down."""

RESULTS = """\
denoise
    Write the denoised layer; by default only if it takes at most `settings.max_layer_bytes`.
key_added
    Name of the results in `.obsm` and `.uns` instead of the model's own, as in `sc.tl.umap`.
save_model
    Keep the fitted model in `.uns`; a path keeps it in a file of its own; `False` not at all."""

RAISES = """\
InputError
    The values are no counts, no region is open in any cell, a column has missing values, an option is impossible.
MissingKeyError
    A layer or column is not there.
TrainingError
    The loss was never finite. In each case the object is left as it was."""


def widths(n_regions: int, *, n_hidden: int | None, n_latent: int | None) -> dict[str, int]:
    """Units of the hidden layers and of the latent space; by default the roots that PeakVI takes."""
    hidden = max(1, math.isqrt(n_regions)) if n_hidden is None else int(n_hidden)
    return {"n_hidden": hidden, "n_latent": max(1, math.isqrt(hidden)) if n_latent is None else int(n_latent)}


def look_at_regions(counts: csr_matrix, place: str) -> None:
    """Refuse counts of nothing, and say how many regions are never open."""
    n_regions = counts.shape[1]
    if not counts.nnz:
        msg = f"{place} holds no count above zero: none of the {n_regions:,} regions is open in any cell."
        raise InputError(f"{msg} Pass the counts (layer=...), or the cells that have some.")
    seen = np.zeros(n_regions, dtype=bool)
    for columns in _blocks(counts.indices):
        seen[columns] = True
    n_closed = n_regions - int(seen.sum())
    if n_closed:
        _logging.warning(
            f"{n_closed:,} of {n_regions:,} regions are open in no cell: they say nothing, and cost time and memory. "
            "Consider sc.pp.filter_genes(adata, min_cells=1)."
        )


def look_at_fragments(counts: csr_matrix, place: str) -> None:
    """Besides, remark on what are no counts of fragments."""
    look_at_regions(counts, place)
    largest, ones, twos = 0.0, 0, 0
    for values in _blocks(counts.data):
        largest = max(largest, float(values.max()))
        ones, twos = ones + np.count_nonzero(values == 1), twos + np.count_nonzero(values == 2)
    if largest <= 1:
        _logging.warning(
            f"{place} is binary, and PoissonVI gains from how many fragments there are: pass their counts "
            "(svp.pp.reads_to_fragments makes them from reads), or use tl.peakvi, which asks for no more than this."
        )
    elif twos > ones:
        _logging.warning(
            f"{place} looks like counts of reads ({twos:,} twos and {ones:,} ones; both ends of a fragment are read): "
            "their scatter is not that of a Poisson. svp.pp.reads_to_fragments makes counts of fragments."
        )


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(values), ENTRIES_AT_ONCE):
        yield values[start : start + ENTRIES_AT_ONCE]
