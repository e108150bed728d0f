"""Chromatin regions of which everything is known, and how fragments in them are drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit, pdtr

from scvi_pp._errors import InputError
from scvi_pp.datasets._simulation import BLOCK_VALUES, SparseRows, blocks, gene_names, random_decoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scvi_pp.datasets._simulation import Cells, Decoder, Genes

BASE_SD = 1.3  # of a region's logit of accessibility: most are closed in most cells, some open in nearly all
FACTOR_SD = 1.0  # of the logit of a region factor
# By which the share of positive entries is set: cells, fewer where there are many regions, and regions.
MOST_CELLS_FOR_LEVEL, FEWEST_CELLS_FOR_LEVEL, REGIONS_FOR_LEVEL = 400, 20, 2000
LEVELS = (-30.0, 30.0)  # logits between which it is looked for
CHROMOSOMES = 22
WIDTH, LARGEST_GAP = 500, 20_000  # of a region, and between two of them, in bases


@dataclass(frozen=True)
class Regions:
    """What is true of the regions, and how the latent position opens them."""

    base: NDArray[np.float32]  # logit of accessibility where nothing moves it, (regions,)
    factor: NDArray[np.float32]  # between 0 and 1, (regions,)
    batch_shift: NDArray[np.float32]  # of the logit, (batches, regions)
    moved: NDArray[np.intp]  # regions that follow the latent position on their own
    movement: Decoder  # of their logits
    linked: NDArray[np.intp]  # regions that follow a gene
    gene: NDArray[np.intp]  # of each linked region, the position of its gene
    link_strength: float  # change of the logit with the natural log of the gene's expression

    def logits(self, cells: Cells, genes: Genes, block: slice | NDArray[np.intp]) -> NDArray[np.float32]:
        """Of the probability that a region is open in these cells, (cells, regions)."""
        position = cells.position[block]
        logit = self.base + self.batch_shift[cells.batch[block]]
        if self.moved.size:
            logit[:, self.moved] += self.movement(position)
        if self.linked.size:
            share = np.maximum(genes.shares(position), np.finfo(np.float32).tiny)  # extreme effects leave a zero
            change = np.log(share / genes.base.astype(np.float32))  # (cells, genes)
            logit[:, self.linked] += np.float32(self.link_strength) * change[:, self.gene]
        return logit


@dataclass(frozen=True)
class Fragments:
    """The fragment counts, and sums over all cells of what they were drawn from."""

    counts: sparse.csr_matrix  # of the measured cells, (cells, regions)
    accessibility_of_type: NDArray[np.float64]  # summed over the cells of each type, (types, regions)
    total_positive: NDArray[np.float64]  # expected number of cells with a fragment, (regions,)
    accessibility: NDArray[np.float32] | None  # of the measured cells, (cells, regions)


def random_regions(
    centers: NDArray[np.float64],
    genes: Genes,
    n_regions: int,
    n_batches: int,
    *,
    differential: float,
    effect_size: float,
    batch_effect: float,
    linked: float,
    link_strength: float,
    random: np.random.Generator,
) -> Regions:
    """Regions of which a share follows a differential gene, and a share the latent position on its own."""
    able = np.flatnonzero(genes.differential)
    n_linked = round(linked * n_regions) if able.size else 0
    n_moved = min(round(differential * n_regions), n_regions - n_linked)
    order = random.permutation(n_regions)
    chosen, moved = np.sort(order[:n_linked]), np.sort(order[n_linked : n_linked + n_moved])
    shift = random.normal(0, batch_effect * (n_batches > 1), (n_batches, n_regions))
    return Regions(
        base=random.normal(0, BASE_SD, n_regions).astype(np.float32),
        factor=expit(random.normal(0, FACTOR_SD, n_regions)).astype(np.float32),
        batch_shift=shift.astype(np.float32),
        moved=moved,
        movement=random_decoder(centers, np.zeros(n_moved), effect_size, random),
        linked=chosen,
        gene=random.choice(able, n_linked) if n_linked else np.empty(0, np.intp),
        link_strength=link_strength,
    )


def at_level(regions: Regions, cells: Cells, genes: Genes, depth: NDArray[np.float32], positive_rate: float) -> Regions:
    """The same regions, opened so far that this share of all entries is expected to be above zero.

    By bisection, on a few of the cells and regions.
    """
    n_obs, n_regions = len(depth), len(regions.base)
    n_cells = min(n_obs, MOST_CELLS_FOR_LEVEL, max(FEWEST_CELLS_FOR_LEVEL, BLOCK_VALUES // n_regions))
    few = np.linspace(0, n_obs - 1, n_cells).astype(np.intp)
    some = np.linspace(0, n_regions - 1, min(n_regions, REGIONS_FOR_LEVEL)).astype(np.intp)
    logit = regions.logits(cells, genes, few)[:, some]
    weight = float(depth.mean()) * regions.factor[some].astype(np.float64)  # (regions,)
    if positive_rate >= 0.99 * weight.mean():
        raise InputError(
            f"positive_rate={positive_rate!r} cannot be reached: depth and region factors leave {weight.mean():.2f} even "
            "where all is open. Give a lower positive_rate."
        )
    lowest, highest = LEVELS
    for _ in range(40):
        level = (lowest + highest) / 2
        if (expit(logit + level).mean(0) @ weight) / len(weight) < positive_rate:
            lowest = level
        else:
            highest = level
    return replace(regions, base=regions.base + np.float32(level))


def draw_fragments(
    cells: Cells,
    genes: Genes,
    regions: Regions,
    depth: NDArray[np.float32],
    *,
    measured: NDArray[np.bool_],
    extra_fragments: float,
    true_accessibility: bool,
    random: np.random.Generator,
) -> Fragments:
    """Draw the fragment counts block by block, and keep those of the measured cells."""
    n_obs, n_regions = len(cells.batch), len(regions.base)
    of_type, total_positive = np.zeros((len(cells.types), n_regions)), np.zeros(n_regions)
    kept = np.empty((int(measured.sum()), n_regions), np.float32) if true_accessibility else None
    rows, n_kept = SparseRows(n_regions), 0
    for block in blocks(n_obs, n_regions):
        logit = regions.logits(cells, genes, block)
        probability = expit(logit, out=logit)
        of_type += cells.summed_by_type(probability, block)
        here = measured[block]
        if kept is not None:
            kept[n_kept : n_kept + here.sum()] = probability[here]
            n_kept += here.sum()
        probability *= depth[block, None]
        probability *= regions.factor
        total_positive += probability.sum(0)
        # All cells are drawn, so that who is measured does not change what is measured in the others.
        uniform = random.random(probability.shape, dtype=np.float32)
        row, column, count = _counted(probability[here], uniform[here], extra_fragments)
        rows.append_entries(int(here.sum()), row, column, count)
    return Fragments(rows.matrix(), of_type, total_positive, kept)


def _counted(
    probability: NDArray[np.float32], uniform: NDArray[np.float32], extra_fragments: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The entries above zero: one fragment, and a Poisson number more.

    Given that a uniform number is below the probability, their ratio is uniform too: from it comes the Poisson number.
    """
    row, column = np.nonzero(uniform < probability)
    ratio = uniform[row, column] / probability[row, column]  # (entries,)
    up_to = np.arange(int(extra_fragments + 10 * np.sqrt(extra_fragments)) + 10)
    return row, column, 1 + np.searchsorted(pdtr(up_to, extra_fragments), ratio, side="right")


def region_truth(
    cells: Cells, regions: Regions, drawn: Fragments, extra_fragments: float, names: list[str]
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """What is known of the regions: the columns of var, and the tables of varm."""
    differential = np.zeros(len(names), dtype=bool)
    differential[regions.moved] = differential[regions.linked] = True
    genes, code = np.unique(regions.gene, return_inverse=True)
    gene = np.full(len(names), -1)
    gene[regions.linked] = code
    columns = {
        "mean": drawn.total_positive * (1 + extra_fragments) / len(cells.batch),
        "region_factor": regions.factor,
        "differential": differential,
        "linked_gene": pd.Categorical.from_codes(gene, gene_names(genes)),
    }
    by_type = drawn.accessibility_of_type.T / np.bincount(cells.cell_type)
    tables = {
        "true_accessibility": pd.DataFrame(by_type, index=names, columns=cells.types),
        "true_batch_shift": pd.DataFrame(regions.batch_shift.T, index=names, columns=cells.batches),
    }
    return pd.DataFrame(columns, index=names), tables


def region_names(n_regions: int, random: np.random.Generator) -> list[str]:
    """Places as 'chr1:1000-1500', in the order of the genome."""

    def places() -> Iterator[str]:
        for number, gaps in enumerate(np.array_split(random.integers(1, LARGEST_GAP, n_regions), CHROMOSOMES), start=1):
            starts = np.cumsum(gaps + WIDTH)
            yield from (f"chr{number}:{start}-{start + WIDTH}" for start in starts)

    return list(places())
