"""A small mosaic of cells, some with every modality and some with one, and a small MultiVI."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend.models.multivi import Hyperparameters, Inputs, Network, build
from scvi_pp._backend.streams import Cells

CPU = torch.device("cpu")
# what is measured in a cell: expression, accessibility, proteins
KINDS = np.array([(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 0, 1)], dtype=bool)
SIZES = (20, 30, 6)


def groups(n_cells: int, seed: int = 0) -> np.ndarray:
    """The group of each cell, one of three."""
    return np.random.default_rng(seed).integers(3, size=n_cells)


def arrays(
    n_cells: int = 70,
    sizes: tuple[int, int, int] = SIZES,
    *,
    kinds: np.ndarray = KINDS,
    seed: int = 0,
    n_levels: tuple[int, ...] = (),
    n_numbers: int = 0,
    size_factors: bool = False,
    contrast: float = 1.0,
) -> Inputs[Any]:
    """Counts of three groups of cells that all modalities tell apart; `contrast` says how well."""
    group, rng = groups(n_cells, seed), np.random.default_rng(seed + 1)
    present = np.resize(kinds, (n_cells, 3))
    depth = rng.lognormal(0, 0.3, (n_cells, 1))

    def means(column: int, typical: float) -> np.ndarray:
        return (typical * np.exp(contrast * rng.normal(0, 1, (3, sizes[column]))))[group] * depth

    def measured(counts: np.ndarray, column: int) -> csr_matrix | None:
        return csr_matrix((counts * present[:, [column]]).astype(np.float32)) if sizes[column] else None

    categories = [rng.integers(n, size=n_cells) for n in n_levels]
    return Inputs(
        expression=measured(rng.poisson(means(0, 1.5)), 0),
        accessibility=measured(rng.poisson(means(1, 0.2)), 1),
        protein=measured(rng.poisson(means(2, 12.0)), 2),
        present=present,
        batch=rng.integers(2, size=n_cells),
        categories=np.array(categories, dtype=np.int64).reshape(len(n_levels), n_cells).T,
        numbers=rng.normal(size=(n_cells, n_numbers)).astype(np.float32),
        expression_size_factor=rng.lognormal(3, 0.3, n_cells).astype(np.float32) if size_factors else None,
        accessibility_size_factor=rng.uniform(0.2, 1, n_cells).astype(np.float32) if size_factors else None,
        row=np.arange(n_cells),
    )


def cells(inputs: Inputs[Any]) -> Cells:
    """The arrays on the CPU."""
    return Cells(inputs, CPU)


def everything(inputs: Inputs[Any]) -> Any:
    """All of it as one minibatch."""
    return cells(inputs).minibatch(torch.arange(len(inputs.batch)))


def network(inputs: Inputs[Any], *, seed: int = 0, **options: Any) -> Network:
    """An untrained MultiVI of the right shape; the global random state is left alone."""
    counts = (inputs.expression, inputs.accessibility, inputs.protein)
    n_genes, n_regions, n_proteins = (0 if each is None else each.shape[1] for each in counts)
    shape = Hyperparameters(
        n_genes=n_genes,
        n_regions=n_regions,
        n_proteins=n_proteins,
        n_cells=len(inputs.batch),
        n_batches=2,
        n_levels=tuple(int(n) + 1 for n in inputs.categories.max(0)) if inputs.categories.size else (),
        n_numbers=inputs.numbers.shape[1],
        has_expression_size_factor=inputs.expression_size_factor is not None,
        has_accessibility_size_factor=inputs.accessibility_size_factor is not None,
        n_latent=3,
        n_hidden=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(replace(shape, **options))
