"""What simulators share: cells and genes of which everything is known, and how counts are drawn from them in blocks.

The dense matrices from which counts are drawn are never larger than a block; what is kept of them is sparse.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

BLOCK_VALUES = 2_000_000  # of the dense block that is drawn at once: 16 MB for each of a handful of arrays
N_REFERENCE = 4000  # cells by which a decoder is scaled
N_HIDDEN = 64
DECODED_TOGETHER = 2500  # outputs of a decoder that are scaled at once: 80 MB at the reference cells

# Chosen to look like the 2,000 most variable genes of 10x data (PBMC 3k, 4k, and Kang et al. 2018): see the tests.
COUNTS_PER_GENE = 0.6
BASE_SD = 1.3  # of the log share of a gene, but for
BASE_SKEW = 0.6  # the mean of an exponential added to it: a few genes hold much of the counts
EFFECT_SD = 0.6  # of the log of an effect size: few genes are strong markers
DISPERSION_SD = 0.7  # of the log of a gene's dispersion


@dataclass(frozen=True)
class Cells:
    """What is true of the cells."""

    cell_type: NDArray[np.intp]  # (cells,)
    batch: NDArray[np.intp]  # (cells,)
    position: NDArray[np.float32]  # (cells, latent)
    library_size: NDArray[np.float32]  # (cells,)
    types: list[str]
    batches: list[str]

    def table(self) -> pd.DataFrame:
        """The columns of obs."""
        columns = {
            "cell_type": pd.Categorical.from_codes(self.cell_type, self.types),
            "batch": pd.Categorical.from_codes(self.batch, self.batches),
            "library_size": self.library_size,
        }
        return pd.DataFrame(columns, index=[f"cell{i + 1}" for i in range(len(self.batch))])

    def summed_by_type(self, values: NDArray[np.float32], block: slice) -> NDArray[np.float32]:
        """Sums over the cells of a block, (types, columns of the values)."""
        return np.eye(len(self.types), dtype=np.float32)[:, self.cell_type[block]] @ values


@dataclass(frozen=True)
class Decoder:
    """A random smooth function of the latent position: one hidden layer."""

    inner: NDArray[np.float32]  # (latent, hidden)
    inner_bias: NDArray[np.float32]  # (hidden,)
    outer: NDArray[np.float32]  # (hidden, outputs)
    outer_bias: NDArray[np.float32]  # (outputs,)

    def __call__(self, position: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs at these positions, (cells, outputs)."""
        return np.tanh(position @ self.inner + self.inner_bias) @ self.outer + self.outer_bias


@dataclass(frozen=True)
class Genes:
    """What is true of the genes, and the decoder from latent positions to their shares."""

    base: NDArray[np.float64]  # share of expression, (genes,)
    dispersion: NDArray[np.float64]  # (genes,)
    differential: NDArray[np.bool_]  # (genes,)
    log_share: Decoder  # of the differential genes, up to a constant

    def shares(self, position: NDArray[np.float32]) -> NDArray[np.float32]:
        """Each gene's share of expression at latent positions; rows sum to one."""
        shares = np.tile(self.base.astype(np.float32), (len(position), 1))  # (cells, genes)
        if self.differential.any():
            log_share = self.log_share(position)
            log_share -= log_share.max(1, keepdims=True)
            share = np.exp(log_share, out=log_share)  # (cells, differential genes)
            mass = np.float32(self.base[self.differential].sum())
            shares[:, self.differential] = share * (mass / share.sum(1, keepdims=True))
        return shares


@dataclass(frozen=True)
class Noise:
    """Where the scatter of counts comes from: a generator for each of its parts, which may be one and the same."""

    of_rates: np.random.Generator
    of_counts: np.random.Generator
    of_losses: np.random.Generator

    def scatter(
        self, rate: NDArray[np.float32], dispersion: NDArray[np.float64], zero_inflation: float = 0
    ) -> NDArray[np.int64]:
        """Draw negative binomial counts, (cells, genes). Overwrites `rate`."""
        if np.isfinite(dispersion).all():
            gamma = self.of_rates.standard_gamma(dispersion, rate.shape, dtype=np.float32)
            rate *= gamma
            rate /= dispersion.astype(np.float32)
        counts = self.of_counts.poisson(rate)
        if zero_inflation > 0:
            counts *= self.of_losses.random(rate.shape, dtype=np.float32) >= zero_inflation
        return counts


@dataclass
class SparseRows:
    """A sparse matrix that grows by blocks of rows."""

    n_columns: int
    values: list[NDArray[np.float32]] = field(default_factory=list)
    columns: list[NDArray[np.int32]] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=lambda: [np.zeros(1, np.int64)])

    def append(self, counts: NDArray[Any]) -> None:
        """Add the rows of a dense block."""
        rows, columns = np.nonzero(counts)
        self.append_entries(len(counts), rows, columns, counts[rows, columns])

    def append_entries(
        self, n_rows: int, rows: NDArray[np.intp], columns: NDArray[np.intp], values: NDArray[Any]
    ) -> None:
        """Add rows by what is in them, in the order of the rows and, within a row, of the columns."""
        self.values.append(values.astype(np.float32))
        self.columns.append(columns.astype(np.int32))
        self.lengths.append(np.bincount(rows, minlength=n_rows))

    def matrix(self) -> sparse.csr_matrix:
        """All rows; the parts are given up."""
        indptr = np.cumsum(np.concatenate(self.lengths))
        data = np.concatenate(self.values)
        self.values.clear()  # so that the result and its blocks are never both in memory in full
        columns = np.concatenate(self.columns)
        self.columns.clear()
        return sparse.csr_matrix((data, columns, indptr), shape=(len(indptr) - 1, self.n_columns))


@dataclass(frozen=True)
class Expression:
    """The counts, and sums over cells of what they were drawn from."""

    counts: sparse.csr_matrix  # of the measured cells, (cells, genes)
    share_of_type: NDArray[np.float64]  # summed over the cells of each type, (types, genes)
    total_rate: NDArray[np.float64]  # summed over all cells, (genes,)
    rate: NDArray[np.float32] | None  # of the measured cells, (cells, genes)


def spread_centers(n_types: int, n_latent: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Standard normal centers, each the farthest from those before it of 20 candidates: no two types coincide."""
    centers = random.standard_normal((1, n_latent))
    while len(centers) < n_types:
        candidates = random.standard_normal((20, n_latent))
        nearest = np.linalg.norm(candidates[:, None] - centers, axis=2).min(1)  # (20,)
        centers = np.vstack([centers, candidates[nearest.argmax()]])
    return centers  # (types, latent)


def random_decoder(
    centers: NDArray[np.float64], offset: NDArray[np.float64], effect_size: float, random: np.random.Generator
) -> Decoder:
    """A decoder whose outputs have these means over cells; the median of their standard deviations is `effect_size`."""
    (n_types, n_latent), n_outputs = centers.shape, len(offset)
    position = centers[random.integers(n_types, size=N_REFERENCE)] + random.standard_normal((N_REFERENCE, n_latent))
    inner = random.standard_normal((n_latent, N_HIDDEN)) / np.sqrt((position**2).mean() * n_latent)
    inner_bias = random.normal(0, 0.5, N_HIDDEN)
    outer = random.standard_normal((N_HIDDEN, n_outputs))
    hidden = np.tanh(position @ inner + inner_bias)  # (reference cells, hidden)
    mean, sd = np.empty(n_outputs), np.empty(n_outputs)
    for start in range(0, n_outputs, DECODED_TOGETHER):
        together = slice(start, start + DECODED_TOGETHER)
        effect = hidden @ outer[:, together]  # (reference cells, some outputs)
        mean[together], sd[together] = effect.mean(0), effect.std(0)
    scale = effect_size * np.exp(random.normal(0, EFFECT_SD, n_outputs)) / sd
    return Decoder(
        inner=inner.astype(np.float32),
        inner_bias=inner_bias.astype(np.float32),
        outer=(outer * scale).astype(np.float32),
        outer_bias=(offset - mean * scale).astype(np.float32),
    )


def random_genes(
    centers: NDArray[np.float64],
    n_genes: int,
    differential: float,
    effect_size: float,
    dispersion: float,
    random: np.random.Generator,
) -> Genes:
    """Genes of which a share varies with the latent position."""
    base = np.exp(random.normal(0, BASE_SD, n_genes) + random.exponential(BASE_SKEW, n_genes))
    base /= base.sum()
    # One gene alone cannot vary: what differential genes have together is constant.
    n_differential = round(differential * n_genes)
    if n_differential == 1:
        n_differential = 2 if n_genes > 1 else 0
    chosen = np.isin(np.arange(n_genes), random.choice(n_genes, n_differential, replace=False))
    log_share = random_decoder(centers, np.log(base[chosen]), effect_size, random)
    return Genes(base, dispersion * np.exp(random.normal(0, DISPERSION_SD, n_genes)), chosen, log_share)


def random_batch_factors(
    n_batches: int, genes: Genes, batch_effect: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Factors of mean one, weighted by expression: batches differ in what is seen, not in how much."""
    factor = np.exp(random.normal(0, batch_effect * (n_batches > 1), (n_batches, len(genes.base))))
    factor /= (factor @ genes.base)[:, None]
    return factor  # (batches, genes)


def random_cells(
    centers: NDArray[np.float64],
    n_obs: int,
    n_batches: int,
    composition_shift: float,
    library_size: float,
    library_sd: float,
    random: np.random.Generator,
) -> Cells:
    """Cells around the centers of their types, and how deeply each is sequenced."""
    n_types, n_latent = centers.shape
    batch, cell_type = _random_labels(n_obs, n_batches, n_types, composition_shift, random)
    return Cells(
        cell_type=cell_type,
        batch=batch,
        position=(centers[cell_type] + random.standard_normal((n_obs, n_latent))).astype(np.float32),
        library_size=(library_size * np.exp(random.normal(0, library_sd, n_obs))).astype(np.float32),
        types=[f"type{i + 1}" for i in range(n_types)],
        batches=[f"batch{i + 1}" for i in range(n_batches)],
    )


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


def blocks(n_obs: int, n_vars: int) -> list[slice]:
    """Consecutive cells whose dense values are no more than a block, at least one cell at a time."""
    size = max(1, BLOCK_VALUES // n_vars)
    return [slice(start, start + size) for start in range(0, n_obs, size)]


def draw_expression(
    cells: Cells,
    genes: Genes,
    batch_factor: NDArray[np.float64],
    *,
    noise: Iterable[Noise],
    measured: NDArray[np.bool_],
    zero_inflation: float = 0,
    true_rate: bool = False,
) -> Expression:
    """Draw the counts block by block, each with its own noise, and keep those of the measured cells."""
    n_obs, n_genes = len(cells.batch), len(genes.base)
    share_of_type, total_rate = np.zeros((len(cells.types), n_genes)), np.zeros(n_genes)
    kept = np.empty((int(measured.sum()), n_genes), np.float32) if true_rate else None
    rows, n_kept = SparseRows(n_genes), 0
    for block, block_noise in zip(blocks(n_obs, n_genes), noise, strict=False):  # one noise may serve all of them
        rate = genes.shares(cells.position[block])
        share_of_type += cells.summed_by_type(rate, block)
        rate *= cells.library_size[block, None]
        rate *= batch_factor.astype(np.float32)[cells.batch[block]]
        total_rate += rate.sum(0)
        here = measured[block]
        if kept is not None:
            kept[n_kept : n_kept + here.sum()] = rate[here]
            n_kept += here.sum()
        rows.append(block_noise.scatter(rate, genes.dispersion, zero_inflation)[here])
    return Expression(rows.matrix(), share_of_type, total_rate, kept)


def gene_names(positions: Iterable[int]) -> list[str]:
    """Names of the genes at these positions."""
    return [f"gene{i + 1}" for i in positions]


def gene_truth(
    cells: Cells, genes: Genes, batch_factor: NDArray[np.float64], drawn: Expression
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """What is known of the genes: the columns of var, and the tables of varm."""
    columns = {
        "mean": drawn.total_rate / len(cells.batch),
        "dispersion": genes.dispersion,
        "differential": genes.differential,
    }
    var = pd.DataFrame(columns, index=gene_names(range(len(genes.base))))
    lfc = _log_fold_changes(np.bincount(cells.cell_type), genes, drawn)
    tables = {
        "true_lfc": pd.DataFrame(lfc, index=var.index, columns=cells.types),
        "true_batch_lfc": pd.DataFrame(np.log2(batch_factor.T), index=var.index, columns=cells.batches),
    }
    return var, tables


def _log_fold_changes(n_cells: NDArray[np.intp], genes: Genes, drawn: Expression) -> NDArray[np.float64]:
    """Each type over all other cells, (genes, types)."""
    lfc = np.full(drawn.share_of_type.T.shape, np.nan)
    if len(n_cells) > 1:
        others = drawn.share_of_type.sum(0) - drawn.share_of_type  # (types, genes)
        lfc = np.log2(drawn.share_of_type.T / n_cells) - np.log2(others.T / (n_cells.sum() - n_cells))
    lfc[~genes.differential] = 0  # not the 1e-7 that rounding leaves
    return lfc


def checked_size(name: str, value: int, n_obs: int | None = None, *, smallest: int = 1) -> int:
    """A whole number of at least one, and of groups no more than there are cells."""
    try:
        size = operator.index(value)
    except TypeError:
        size = -1
    if size < smallest or isinstance(value, bool):
        raise InputError(f"{name}={value!r} is no size: give a whole number of at least {smallest}.")
    if n_obs is not None and size > n_obs:
        raise InputError(f"{name}={value!r} is more than n_obs={n_obs}: give fewer groups, or more cells.")
    return size


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Refuse what is not a number within these limits."""
    if not (isinstance(value, Real) and lowest <= value <= highest):  # NaN is not inside either
        raise InputError(f"{name}={value!r} cannot be: give a number from {lowest:g} to {highest:g}.")
