"""Small data, a small scVI, and small models of chromatin: what most tests of the engine train and ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.distributions import Normal

from scvi_pp._backend.fit import Plan
from scvi_pp._backend.models import linear_scvi, peakvi, poissonvi, scanvi
from scvi_pp._backend.models.scvi import Hyperparameters, Inputs, Network, build
from scvi_pp._backend.streams import Cells

CPU = torch.device("cpu")


def arrays(
    n_cells: int = 60,
    n_genes: int = 20,
    *,
    seed: int = 0,
    n_batches: int = 2,
    n_levels: tuple[int, ...] = (),
    n_numbers: int = 0,
    size_factor: bool = False,
) -> Inputs[Any]:
    """Counts of three groups of cells, none of them empty, with covariates at random."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.7, 2, (3, n_genes))[rng.integers(3, size=n_cells)] * rng.lognormal(0, 0.4, (n_cells, 1))
    counts = rng.poisson(mean * rng.gamma(2, 0.5, (n_cells, n_genes)))
    counts[:, 0] += 1
    categories = [rng.integers(n, size=n_cells) for n in n_levels]
    return Inputs(
        counts=csr_matrix(counts.astype(np.float32)),
        batch=np.arange(n_cells) % n_batches,
        labels=rng.integers(2, size=n_cells),
        categories=np.array(categories, dtype=np.int64).reshape(len(n_levels), n_cells).T,
        numbers=rng.normal(size=(n_cells, n_numbers)).astype(np.float32),
        size_factor=rng.lognormal(0, 0.3, n_cells).astype(np.float32) if size_factor else None,
    )


def regions(n_cells: int = 60, n_regions: int = 20, *, size_factor: bool = False, **options: Any) -> peakvi.Inputs[Any]:
    """The same counts as of regions, the first of which is open in every cell; a size factor is a share."""
    found = arrays(n_cells, n_regions, **options)._asdict()
    del found["labels"]
    share = np.random.default_rng(1).uniform(0.2, 1, n_cells).astype(np.float32) if size_factor else None
    return peakvi.Inputs(**{**found, "size_factor": share})


def cells(inputs: tuple[Any, ...]) -> Cells:
    """The arrays on the CPU."""
    return Cells(inputs, CPU)


def network(inputs: Inputs[Any], *, seed: int = 0, **options: Any) -> Network:
    """An untrained scVI of the right shape; the global random state is left alone."""
    shape = Hyperparameters(n_genes=inputs.counts.shape[1], n_labels=2, **_shape(inputs))
    return _built(build, replace(shape, **options), seed)


def linear_network(inputs: Inputs[Any], *, seed: int = 0, **options: Any) -> linear_scvi.Network:
    """An untrained linear scVI of the right shape."""
    shape = linear_scvi.Hyperparameters(n_genes=inputs.counts.shape[1], n_labels=2, **_shape(inputs))
    return _built(linear_scvi.build, replace(shape, **options), seed)


def labelled(n_cells: int = 60, n_genes: int = 20, *, n_labels: int = 3, **options: Any) -> Inputs[Any]:
    """The same counts with labels, a third of the cells without one."""
    found = arrays(n_cells, n_genes, **options)
    labels = np.random.default_rng(5).integers(n_labels, size=n_cells)
    return found._replace(labels=np.where(np.arange(n_cells) % 3 == 0, n_labels, labels))


def scanvi_network(inputs: Inputs[Any], *, seed: int = 0, **options: Any) -> scanvi.Network:
    """An untrained scANVI of the right shape."""
    shape = scanvi.Hyperparameters(n_genes=inputs.counts.shape[1], n_labels=int(inputs.labels.max()), **_shape(inputs))
    return _built(scanvi.build, replace(shape, **options), seed)


def peakvi_network(inputs: peakvi.Inputs[Any], *, seed: int = 0, **options: Any) -> peakvi.Network:
    """An untrained PeakVI of the right shape."""
    shape = peakvi.Hyperparameters(n_regions=inputs.counts.shape[1], **_shape(inputs))
    return _built(peakvi.build, replace(shape, **options), seed)


def poissonvi_network(inputs: Inputs[Any], *, seed: int = 0, **options: Any) -> poissonvi.Network:
    """An untrained PoissonVI of the right shape."""
    shape = poissonvi.Hyperparameters(n_regions=inputs.counts.shape[1], **_shape(inputs))
    return _built(poissonvi.build, replace(shape, **options), seed)


def _shape(inputs: Any) -> dict[str, Any]:
    return {
        "n_batches": int(inputs.batch.max()) + 1,
        "n_levels": tuple(int(n) + 1 for n in inputs.categories.max(0)) if inputs.categories.size else (),
        "n_numbers": inputs.numbers.shape[1],
        "has_size_factor": inputs.size_factor is not None,
        "n_latent": 3,
        "n_hidden": 8,
    }


def _built(build: Callable[[Any], Any], hyperparameters: Any, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(hyperparameters)


def plan(n_cells: int = 60, **options: Any) -> Plan:
    """A few quick epochs, every fifth cell held out."""
    held_out = np.arange(n_cells) % 5 == 0
    defaults: dict[str, Any] = {
        "max_epochs": 6,
        "batch_size": 16,
        "learning_rate": 5e-3,
        "weight_decay": 1e-6,
        "kl_warmup": 0.25,
        "kl_weight": 1.0,
        "early_stopping": True,
        "patience": 50,
        "seed": 0,
        "training_rows": np.flatnonzero(~held_out),
        "validation_rows": np.flatnonzero(held_out),
    }
    return Plan(**{**defaults, **options})


def draw_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw of a posterior is its mean for as long as the test runs."""
    monkeypatch.setattr(Normal, "rsample", lambda self, shape=(): self.loc.expand(*shape, *self.loc.shape))
