"""Surface proteins of which everything is known, and how their counts are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit

from scvi_pp.datasets._simulation import SparseRows, blocks, random_decoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scvi_pp.datasets._simulation import Cells, Decoder, Noise

# Antibody counts of 10x data: a background of a few counts in every cell, and tens of times as much where the protein is.
BACKGROUND, BACKGROUND_SD = 5.0, 0.7  # median over proteins, and the standard deviation of its log
CELL_SD = 0.4  # of the log background between the cells of a batch
FOREGROUND, FOREGROUND_SD = 10.0, 0.5  # by how much the foreground exceeds it
PRESENCE, PRESENCE_SD = -1.0, 1.0  # of the logit of the share of cells that have the protein
PRESENCE_EFFECT = 5.0  # of the latent position, on that logit: types have a protein or lack it
DISPERSION, DISPERSION_SD = 10.0, 0.5


@dataclass(frozen=True)
class Proteins:
    """What is true of the proteins."""

    background: NDArray[np.float64]  # median over the cells of a batch, (batches, proteins)
    foreground_factor: NDArray[np.float64]  # above one, (proteins,)
    dispersion: NDArray[np.float64]  # (proteins,)
    presence: Decoder  # logit of the probability that a cell has the protein


@dataclass(frozen=True)
class ProteinCounts:
    """Of the measured cells."""

    counts: sparse.csr_matrix  # (cells, proteins)
    foreground: NDArray[np.bool_]  # whether the cell has the protein, (cells, proteins)


def random_proteins(
    centers: NDArray[np.float64], n_proteins: int, n_batches: int, batch_effect: float, random: np.random.Generator
) -> Proteins:
    """Proteins on the surface of some types of cells, above a background that depends on the batch."""
    median = BACKGROUND * np.exp(random.normal(0, BACKGROUND_SD, n_proteins))
    return Proteins(
        background=median * np.exp(random.normal(0, batch_effect * (n_batches > 1), (n_batches, n_proteins))),
        foreground_factor=1 + FOREGROUND * np.exp(random.normal(0, FOREGROUND_SD, n_proteins)),
        dispersion=DISPERSION * np.exp(random.normal(0, DISPERSION_SD, n_proteins)),
        presence=random_decoder(centers, random.normal(PRESENCE, PRESENCE_SD, n_proteins), PRESENCE_EFFECT, random),
    )


def draw_proteins(
    cells: Cells,
    proteins: Proteins,
    *,
    noise: Noise,
    measured: NDArray[np.bool_],
    of_presence: np.random.Generator,
    of_background: np.random.Generator,
) -> ProteinCounts:
    """Draw the counts block by block, and keep those of the measured cells."""
    n_proteins = len(proteins.dispersion)
    rows, foreground = SparseRows(n_proteins), []
    for block in blocks(len(cells.batch), n_proteins):
        probability = expit(proteins.presence(cells.position[block]))  # (cells, proteins)
        present = of_presence.random(probability.shape) < probability
        rate = proteins.background[cells.batch[block]]
        rate *= np.exp(of_background.normal(0, CELL_SD, rate.shape))
        rate *= np.where(present, proteins.foreground_factor, 1)
        counts = noise.scatter(rate.astype(np.float32), proteins.dispersion)
        rows.append(counts[measured[block]])
        foreground.append(present[measured[block]])
    return ProteinCounts(rows.matrix(), np.concatenate(foreground))


def protein_truth(cells: Cells, proteins: Proteins) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """What is known of the proteins: the columns of var, and the tables of varm."""
    columns = {"foreground_factor": proteins.foreground_factor, "dispersion": proteins.dispersion}
    var = pd.DataFrame(columns, index=[f"protein{i + 1}" for i in range(len(proteins.dispersion))])
    return var, {"true_background": pd.DataFrame(proteins.background.T, index=var.index, columns=cells.batches)}
