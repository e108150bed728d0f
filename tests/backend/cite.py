"""A few cells with RNA and proteins of three batches and two panels, some with one of both, and a small totalVI."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend.models.totalvi import Hyperparameters, Inputs, Network, build
from scvi_pp._backend.streams import Cells

CPU = torch.device("cpu")
N_CELLS, N_GENES, N_PROTEINS, N_BATCHES = 72, 14, 6, 3
# of each batch: which proteins it measures
PANELS = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], dtype=bool)


def arrays(*, panels: np.ndarray | None = PANELS, seed: int = 0, **more: Any) -> Inputs[Any]:
    """Two types of cells, that differ in genes and in the presence of proteins; every sixth cell lacks RNA."""
    rng = np.random.default_rng(seed)
    kind, batch = np.arange(N_CELLS) % 2, np.arange(N_CELLS) // 2 % N_BATCHES
    table = np.ones((N_BATCHES, N_PROTEINS), dtype=bool) if panels is None else panels
    present = np.ones((N_CELLS, 3), dtype=bool)
    present[:, 1] = False
    present[:, 2] = table[batch].any(1)
    present[:, 0] = (np.arange(N_CELLS) % 6 != 0) | ~present[:, 2]
    rate = rng.gamma(2, 1, (2, N_GENES))[kind]
    has = rng.random((N_CELLS, N_PROTEINS)) < np.where((np.arange(N_PROTEINS) % 2 == kind[:, None]), 0.9, 0.1)
    counts = rng.poisson(np.where(has, 60.0, 5.0)) * table[batch] * present[:, [2]]
    return Inputs(
        expression=csr_matrix((rng.poisson(rate) * present[:, [0]]).astype(np.float32)),
        protein=csr_matrix(counts.astype(np.float32)),
        present=present,
        panel=None if panels is None else table[batch],
        batch=batch,
        categories=more.get("categories", np.zeros((N_CELLS, 0), dtype=np.int64)),
        numbers=more.get("numbers", np.zeros((N_CELLS, 0), dtype=np.float32)),
        expression_size_factor=more.get("size_factor"),
    )


def cells(inputs: Inputs[Any]) -> Cells:
    """The arrays on the CPU."""
    return Cells(inputs, CPU)


def everything(inputs: Inputs[Any]) -> Any:
    """All of it as one minibatch."""
    return cells(inputs).minibatch(torch.arange(len(inputs.batch)))


def network(inputs: Inputs[Any], *, seed: int = 0, **options: Any) -> Network:
    """A totalVI that has not been trained but begins at the data; the global random state is left alone."""
    shape = Hyperparameters(
        n_genes=N_GENES,
        n_proteins=N_PROTEINS,
        n_batches=N_BATCHES,
        n_levels=tuple(int(n) + 1 for n in inputs.categories.max(0)) if inputs.categories.size else (),
        n_numbers=inputs.numbers.shape[1],
        has_expression_size_factor=inputs.expression_size_factor is not None,
        n_latent=3,
        n_hidden=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = build(replace(shape, **options))
    made.start_from(cells(inputs), torch.arange(len(inputs.batch)))
    return made
