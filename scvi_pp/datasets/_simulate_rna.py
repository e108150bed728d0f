"""Single-cell RNA counts of which everything is known.

For cell n of type t and batch b, and gene g:

    z_n       = center_t + Normal(0, 1)                 (n_latent,)
    share_n   = mass * softmax(log base + effect(z_n))  for the differential genes; base for the others; (n_vars,)
    library_n = LogNormal(log library_size, library_sd)
    rate_ng   = library_n * share_ng * batch_factor_bg
    count_ng  = Poisson(rate_ng * Gamma(dispersion_g, 1) / dispersion_g), or 0 with probability zero_inflation

`effect` is a random smooth network with one hidden layer, scaled so that the log expression of a gene has the standard
deviation over cells that was asked for. `mass` is what the differential genes have together: because it is constant,
the others have a log fold change of exactly zero. A batch factor is the same in every cell.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scvi_pp import _docs
from scvi_pp._errors import InputError
from scvi_pp._seed import seed_from

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scvi_pp._seed import Seed

BLOCK_VALUES = 2_000_000  # of the dense block that is drawn at once: 16 MB for each of a handful of arrays
N_REFERENCE = 4000  # cells by which the decoder is scaled
N_HIDDEN = 64

# Chosen to look like the 2,000 most variable genes of 10x data (PBMC 3k, 4k, and Kang et al. 2018): see the tests.
COUNTS_PER_GENE = 0.6
BASE_SD = 1.3  # of the log share of a gene, but for
BASE_SKEW = 0.6  # the mean of an exponential added to it: a few genes hold much of the counts
EFFECT_SD = 0.6  # of the log of a gene's effect size: few genes are strong markers
DISPERSION_SD = 0.7  # of the log of a gene's dispersion


@_docs.documented(RANDOM=_docs.RANDOM)
def simulate_rna(
    n_obs: int = 1000,
    n_vars: int = 500,
    *,
    n_types: int = 5,
    n_batches: int = 2,
    n_latent: int = 8,
    type_separation: float = 3.0,
    differential: float = 0.3,
    effect_size: float = 0.8,
    batch_effect: float = 0.3,
    composition_shift: float = 0.0,
    library_size: float | None = None,
    library_sd: float = 0.45,
    dispersion: float = 4.0,
    zero_inflation: float = 0.0,
    true_rate: bool = False,
    rng: Seed = None,
    random_state: Seed = None,
) -> AnnData:
    """Simulate single-cell RNA counts with known latent space, cell types, batches and differential genes.

    Use it to see whether a method finds what is there, and how that depends on depth, noise, and batch effects. A
    cell's type and its variation within the type are a position in a low-dimensional latent space. A smooth random
    decoder turns the position into each gene's share of expression; a batch multiplies each gene by a factor of its
    own; the library size says how many counts the cell has in the mean; counts scatter around that as negative
    binomials. The defaults resemble the most variable genes of 10x data.

    Cells are made in blocks and kept sparse: a million cells take minutes, and little more memory than the result.

    Parameters
    ----------
    n_obs, n_vars
        Number of cells and of genes.
    n_types
        Number of cell types. Their proportions differ, by up to a factor of 3.
    n_batches
        Number of batches, equal in size.
    n_latent
        Dimensions of the latent space.
    type_separation
        Standard deviation of the types' centers; the cells of a type have a standard deviation of 1 around theirs.
        At 0 there are no types, whatever the labels say.
    differential
        Share of genes, from 0 to 1, whose expression depends on the latent position.
    effect_size
        Standard deviation over cells of the natural log of a differential gene's share: the median over these genes.
    batch_effect
        Standard deviation over genes of the natural log of a batch's factors. Between two batches, genes then differ
        by 1.4 times as much. 0.15 is a repeat of an experiment, 0.45 another laboratory with another chemistry.
    composition_shift
        Standard deviation of the natural log by which a type's proportion differs between batches.
    library_size
        Median over cells of the expected total count; by default 0.6 counts per gene.
    library_sd
        Standard deviation over cells of the natural log of the expected total count.
    dispersion
        Median over genes of the inverse dispersion: the variance of a count is `mean + mean**2 / dispersion`.
        `inf` gives Poisson counts.
    zero_inflation
        Share of counts, from 0 up to 1, that are lost: set to zero whatever they were. UMI counts have none.
    true_rate
        Keep the expected counts as a dense layer, of `4 * n_obs * n_vars` bytes.
    {RANDOM}

    Returns
    -------
    Annotated data matrix with the fields

    `.X` : :class:`scipy.sparse.csr_matrix` (dtype `float32`, shape `(n_obs, n_vars)`)
        Counts.
    `.obs['cell_type']`, `.obs['batch']` : categorical
        `'type1'`, ... and `'batch1'`, ...
    `.obs['library_size']`
        Expected total count, but for batch factors and lost counts.
    `.obsm['X_true']` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Latent position.
    `.var['mean']`
        Expected count, the mean over these cells.
    `.var['dispersion']`
        Inverse dispersion.
    `.var['differential']` : bool
        Whether expression depends on the latent position.
    `.varm['true_lfc']` : :class:`pandas.DataFrame` (a column for each cell type)
        Log2 fold change of the mean share in the cells of the type over that in all others. Exactly 0 for genes that
        are not differential; NaN for those that are if there is one type only.
    `.varm['true_batch_lfc']` : :class:`pandas.DataFrame` (a column for each batch)
        Log2 of the factor by which the batch multiplies the gene.
    `.layers['true_rate']` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_vars)`)
        Expected count of each gene in each cell before any is lost. Only if `true_rate=True`.

    Raises
    ------
    InputError
        A number is outside of what its argument can be.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> adata = svp.datasets.simulate_rna(200, 100, n_types=3, rng=1)
    >>> adata.shape, adata.obsm["X_true"].shape
    ((200, 100), (200, 8))
    >>> int(adata.var["differential"].sum())
    30
    >>> adata.varm["true_lfc"].columns.to_list()
    ['type1', 'type2', 'type3']
    """
    n_obs, n_vars, n_latent = _size("n_obs", n_obs), _size("n_vars", n_vars), _size("n_latent", n_latent)
    n_types, n_batches = _size("n_types", n_types, n_obs), _size("n_batches", n_batches, n_obs)
    _check_range("type_separation", type_separation, 0, 1000)
    _check_range("differential", differential, 0, 1)
    _check_range("effect_size", effect_size, 0, 5)
    _check_range("batch_effect", batch_effect, 0, 5)
    _check_range("composition_shift", composition_shift, 0, 5)
    library_size = COUNTS_PER_GENE * n_vars if library_size is None else library_size
    _check_range("library_size", library_size, 1e-3, 1e6)
    _check_range("library_sd", library_sd, 0, 3)
    _check_range("dispersion", dispersion, 1e-3, np.inf)
    _check_range("zero_inflation", zero_inflation, 0, 1)

    of_genes, of_cells, of_counts = np.random.SeedSequence(seed_from(rng, random_state)).spawn(3)
    random = np.random.default_rng(of_genes)
    centers = _spread(n_types, n_latent, random) * type_separation
    genes = _random_genes(centers, n_vars, differential, effect_size, dispersion, random)
    batch_factor = _random_batches(n_batches, genes, batch_effect, random)
    random = np.random.default_rng(of_cells)
    batch, cell_type = _random_labels(n_obs, n_batches, n_types, composition_shift, random)
    cells = _Cells(
        cell_type=cell_type,
        batch=batch,
        position=(centers[cell_type] + random.standard_normal((n_obs, n_latent))).astype(np.float32),
        library_size=(library_size * np.exp(random.normal(0, library_sd, n_obs))).astype(np.float32),
    )
    drawn = _draw(cells, genes, batch_factor, zero_inflation, true_rate, of_counts)
    return _annotated(cells, genes, batch_factor, drawn)


@dataclass(frozen=True)
class _Genes:
    """What is true of the genes, and the decoder from latent positions to their shares."""

    base: NDArray[np.float64]  # share of expression, (genes,)
    dispersion: NDArray[np.float64]  # (genes,)
    differential: NDArray[np.bool_]  # (genes,)
    inner: NDArray[np.float32]  # (latent, hidden)
    inner_bias: NDArray[np.float32]  # (hidden,)
    outer: NDArray[np.float32]  # (hidden, differential genes)
    outer_bias: NDArray[np.float32]  # with the log of the base share, (differential genes,)

    def shares(self, position: NDArray[np.float32]) -> NDArray[np.float32]:
        """Each gene's share of expression at latent positions; rows sum to one."""
        shares = np.tile(self.base.astype(np.float32), (len(position), 1))  # (cells, genes)
        if self.differential.any():
            log_share = np.tanh(position @ self.inner + self.inner_bias) @ self.outer + self.outer_bias
            log_share -= log_share.max(1, keepdims=True)
            share = np.exp(log_share, out=log_share)  # (cells, differential genes)
            mass = np.float32(self.base[self.differential].sum())
            shares[:, self.differential] = share * (mass / share.sum(1, keepdims=True))
        return shares


@dataclass(frozen=True)
class _Cells:
    """What is true of the cells."""

    cell_type: NDArray[np.intp]  # (cells,)
    batch: NDArray[np.intp]  # (cells,)
    position: NDArray[np.float32]  # (cells, latent)
    library_size: NDArray[np.float32]  # (cells,)


@dataclass(frozen=True)
class _Drawn:
    """The counts, and sums over cells of what they were drawn from."""

    counts: sparse.csr_matrix  # (cells, genes)
    share_of_type: NDArray[np.float64]  # summed over the cells of each type, (types, genes)
    total_rate: NDArray[np.float64]  # summed over all cells, (genes,)
    rate: NDArray[np.float32] | None  # (cells, genes)


def _spread(n_types: int, n_latent: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Standard normal centers, each the farthest from those before it of 20 candidates: no two types coincide."""
    centers = random.standard_normal((1, n_latent))
    while len(centers) < n_types:
        candidates = random.standard_normal((20, n_latent))
        nearest = np.linalg.norm(candidates[:, None] - centers, axis=2).min(1)  # (20,)
        centers = np.vstack([centers, candidates[nearest.argmax()]])
    return centers  # (types, latent)


def _random_genes(
    centers: NDArray[np.float64],
    n_vars: int,
    differential: float,
    effect_size: float,
    dispersion: float,
    random: np.random.Generator,
) -> _Genes:
    n_types, n_latent = centers.shape
    base = np.exp(random.normal(0, BASE_SD, n_vars) + random.exponential(BASE_SKEW, n_vars))
    base /= base.sum()
    # One gene alone cannot vary: what differential genes have together is constant.
    n_differential = round(differential * n_vars)
    if n_differential == 1:
        n_differential = 2 if n_vars > 1 else 0
    chosen = np.isin(np.arange(n_vars), random.choice(n_vars, n_differential, replace=False))
    position = centers[random.integers(n_types, size=N_REFERENCE)] + random.standard_normal((N_REFERENCE, n_latent))
    inner = random.standard_normal((n_latent, N_HIDDEN)) / np.sqrt((position**2).mean() * n_latent)
    inner_bias = random.normal(0, 0.5, N_HIDDEN)
    outer = random.standard_normal((N_HIDDEN, n_differential))
    effect = np.tanh(position @ inner + inner_bias) @ outer  # (reference cells, differential genes)
    scale = effect_size * np.exp(random.normal(0, EFFECT_SD, n_differential)) / effect.std(0)
    return _Genes(
        base=base,
        dispersion=dispersion * np.exp(random.normal(0, DISPERSION_SD, n_vars)),
        differential=chosen,
        inner=inner.astype(np.float32),
        inner_bias=inner_bias.astype(np.float32),
        outer=(outer * scale).astype(np.float32),
        outer_bias=(np.log(base[chosen]) - effect.mean(0) * scale).astype(np.float32),
    )


def _random_batches(
    n_batches: int, genes: _Genes, batch_effect: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Factors of mean one, weighted by expression: batches differ in what is seen, not in how much."""
    factor = np.exp(random.normal(0, batch_effect * (n_batches > 1), (n_batches, len(genes.base))))
    factor /= (factor @ genes.base)[:, None]
    return factor  # (batches, genes)


def _random_labels(
    n_obs: int, n_batches: int, n_types: int, composition_shift: float, random: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Batch and type of every cell. Every batch and every type has a cell."""
    batch = random.permutation(np.arange(n_obs) % n_batches)
    log_odds = np.log(random.uniform(0.5, 1.5, n_types)) + random.normal(0, composition_shift, (n_batches, n_types))
    proportions = np.exp(log_odds - log_odds.max(1, keepdims=True))
    limits = np.cumsum(proportions / proportions.sum(1, keepdims=True), axis=1)[:, :-1]  # (batches, types - 1)
    cell_type = (random.random(n_obs)[:, None] > limits[batch]).sum(1)
    for missing in np.setdiff1d(np.arange(n_types), cell_type):
        cell_type[np.flatnonzero(cell_type == np.bincount(cell_type).argmax())[0]] = missing
    return batch, cell_type


def _draw(
    cells: _Cells,
    genes: _Genes,
    batch_factor: NDArray[np.float64],
    zero_inflation: float,
    true_rate: bool,
    seeds: np.random.SeedSequence,
) -> _Drawn:
    """Draw the counts block by block; what is dense is never larger than a block."""
    n_obs, n_vars, n_types = len(cells.batch), len(genes.base), cells.cell_type.max() + 1
    share_of_type, total_rate = np.zeros((n_types, n_vars)), np.zeros(n_vars)
    kept = np.empty((n_obs, n_vars), np.float32) if true_rate else None
    values, columns, lengths = [], [], [np.zeros(1, np.int64)]
    size = max(1, BLOCK_VALUES // n_vars)
    starts = range(0, n_obs, size)
    for start, seed in zip(starts, seeds.spawn(len(starts)), strict=True):
        block = slice(start, start + size)
        rate = genes.shares(cells.position[block])
        share_of_type += np.eye(n_types, dtype=np.float32)[:, cells.cell_type[block]] @ rate
        rate *= cells.library_size[block, None]
        rate *= batch_factor.astype(np.float32)[cells.batch[block]]
        total_rate += rate.sum(0)
        if kept is not None:
            kept[block] = rate
        counts = _scatter(rate, genes.dispersion, zero_inflation, np.random.default_rng(seed))
        rows, column = np.nonzero(counts)
        values.append(counts[rows, column].astype(np.float32))
        columns.append(column.astype(np.int32))
        lengths.append(np.bincount(rows, minlength=len(counts)))
    indptr = np.cumsum(np.concatenate(lengths))
    data = np.concatenate(values)
    values.clear()  # so that the result and its blocks are never both in memory in full
    counts = sparse.csr_matrix((data, np.concatenate(columns), indptr), shape=(n_obs, n_vars))
    return _Drawn(counts, share_of_type, total_rate, kept)


def _scatter(
    rate: NDArray[np.float32], dispersion: NDArray[np.float64], zero_inflation: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """Draw counts, (cells, genes). Overwrites `rate`."""
    if np.isfinite(dispersion).all():
        gamma = random.standard_gamma(dispersion, rate.shape, dtype=np.float32)
        rate *= gamma
        rate /= dispersion.astype(np.float32)
    counts = random.poisson(rate)
    if zero_inflation > 0:
        counts *= random.random(rate.shape, dtype=np.float32) >= zero_inflation
    return counts


def _annotated(cells: _Cells, genes: _Genes, batch_factor: NDArray[np.float64], drawn: _Drawn) -> AnnData:
    n_obs, n_vars = drawn.counts.shape
    types = [f"type{i + 1}" for i in range(len(drawn.share_of_type))]
    batches = [f"batch{i + 1}" for i in range(len(batch_factor))]
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(cells.cell_type, types),
            "batch": pd.Categorical.from_codes(cells.batch, batches),
            "library_size": cells.library_size,
        },
        index=[f"cell{i + 1}" for i in range(n_obs)],
    )
    var = pd.DataFrame(
        {"mean": drawn.total_rate / n_obs, "dispersion": genes.dispersion, "differential": genes.differential},
        index=[f"gene{i + 1}" for i in range(n_vars)],
    )
    lfc = pd.DataFrame(_log_fold_changes(np.bincount(cells.cell_type), genes, drawn), index=var.index, columns=types)
    batch_lfc = pd.DataFrame(np.log2(batch_factor.T), index=var.index, columns=batches)
    return AnnData(
        drawn.counts,
        obs=obs,
        var=var,
        obsm={"X_true": cells.position},
        varm={"true_lfc": lfc, "true_batch_lfc": batch_lfc},
        layers={} if drawn.rate is None else {"true_rate": drawn.rate},
    )


def _log_fold_changes(n_cells: NDArray[np.intp], genes: _Genes, drawn: _Drawn) -> NDArray[np.float64]:
    """Each type over all other cells, (genes, types)."""
    lfc = np.full(drawn.share_of_type.T.shape, np.nan)
    if len(n_cells) > 1:
        others = drawn.share_of_type.sum(0) - drawn.share_of_type  # (types, genes)
        lfc = np.log2(drawn.share_of_type.T / n_cells) - np.log2(others.T / (n_cells.sum() - n_cells))
    lfc[~genes.differential] = 0  # not the 1e-7 that rounding leaves
    return lfc


def _size(name: str, value: int, n_obs: int | None = None) -> int:
    """A whole number of at least one, and of groups no more than there are cells."""
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool):
        raise InputError(f"{name}={value!r} is no size: give a whole number of at least 1.")
    if n_obs is not None and size > n_obs:
        raise InputError(f"{name}={value!r} is more than n_obs={n_obs}: give fewer groups, or more cells.")
    return size


def _check_range(name: str, value: float, lowest: float, highest: float) -> None:
    if not (isinstance(value, Real) and lowest <= value <= highest):  # NaN is not inside either
        raise InputError(f"{name}={value!r} cannot be: give a number from {lowest:g} to {highest:g}.")
