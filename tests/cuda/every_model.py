"""Every model with a few telling sets of options: untrained networks, and the arrays of a few cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from scvi_pp._backend.models import scvi
from scvi_pp._backend.streams import Cells
from scvi_pp._backend.surgery import mapping
from tests.backend import cite, mosaic, small

N_FEATURES = 20
COVARIATES: dict[str, Any] = {"n_levels": (3,), "n_numbers": 1}
ENCODED = {"encode_covariates": True}
LATENT_LIBRARY = {"use_observed_lib_size": False}


class Made(NamedTuple):
    """A network that has not been trained, and what it reads of its cells."""

    network: Any
    inputs: Any

    def on(self, device: torch.device) -> tuple[Any, Cells]:
        """Network and cells on a device."""
        return self.network.to(device), Cells(self.inputs, device)


class Case(NamedTuple):
    """A model by its name, what is particular about it, and what makes it.

    `is_asked` says whether its answers are made by other operations than those of the model's first case.
    """

    model: str
    options: str
    make: Callable[[], Made]
    is_asked: bool = False


def _of_genes(network: Callable[..., nn.Module] = small.network, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        inputs = small.arrays(50, N_FEATURES, **COVARIATES, size_factor=options.get("size_factor", False))
        return Made(
            network(inputs, **{name: value for name, value in options.items() if name != "size_factor"}), inputs
        )

    return make


def _with_labels(**options: Any) -> Callable[[], Made]:
    def make() -> Made:
        inputs = small.labelled(50, N_FEATURES, **COVARIATES)
        return Made(small.scanvi_network(inputs, **options), inputs)

    return make


def _of_regions(*, size_factor: bool = False, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        inputs = small.regions(50, N_FEATURES, **COVARIATES, size_factor=size_factor)
        return Made(small.peakvi_network(inputs, **options), inputs)

    return make


def _of_modalities(of_cells: dict[str, Any], **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        inputs = mosaic.arrays(50, **of_cells)
        return Made(mosaic.network(inputs, n_layers_encoder=1, n_layers_decoder=1, **options), inputs)

    return make


def _of_proteins(
    panels: np.ndarray | None = cite.PANELS, *, covariates: bool = False, size_factor: bool = False, **options: Any
) -> Callable[[], Made]:
    def make() -> Made:
        random, more = np.random.default_rng(0), {}
        if covariates:
            more |= {"categories": np.resize([[0], [1]], (cite.N_CELLS, 1))}
            more |= {"numbers": random.normal(size=(cite.N_CELLS, 1)).astype(np.float32)}
        if size_factor:
            more |= {"size_factor": random.lognormal(3, 0.3, cite.N_CELLS).astype(np.float32)}
        inputs = cite.arrays(panels=panels, **more)
        return Made(cite.network(inputs, **options), inputs)

    return make


def mapped() -> Made:
    """A query with two batches that the fitted scVI has not seen: what is known is no parameter."""
    known, query = small.arrays(n_cells=50), small.arrays(n_cells=50, n_batches=4, seed=1)
    network = small.network(known, **ENCODED, **LATENT_LIBRARY)
    grown = scvi.build(replace(network.hyperparameters, n_batches=4))
    return Made(mapping(network, grown, "new"), query)


CASES = [
    Case("scvi", "zinb", _of_genes()),
    Case("scvi", "nb, dispersion by cell", _of_genes(gene_likelihood="nb", dispersion="gene-cell")),
    Case("scvi", "poisson, latent library", _of_genes(gene_likelihood="poisson", **LATENT_LIBRARY), is_asked=True),
    Case("scvi", "dispersion by batch, covariates encoded", _of_genes(dispersion="gene-batch", **ENCODED)),
    Case(
        "scvi",
        "normal, dispersion by label, ln",
        _of_genes(gene_likelihood="normal", dispersion="gene-label", latent_distribution="ln"),
        is_asked=True,
    ),
    Case(
        "scvi",
        "size factor, batch embedded",
        _of_genes(size_factor=True, batch_representation="embedding"),
        is_asked=True,
    ),
    Case("linear_scvi", "nb", _of_genes(small.linear_network)),
    Case(
        "linear_scvi",
        "zinb, latent library, ln",
        _of_genes(small.linear_network, gene_likelihood="zinb", latent_distribution="ln", **LATENT_LIBRARY),
    ),
    Case("scanvi", "zinb", _with_labels()),
    Case(
        "scanvi",
        "latent library, linear classifier, ln",
        _with_labels(linear_classifier=True, latent_distribution="ln", **LATENT_LIBRARY, **ENCODED),
    ),
    Case("peakvi", "both factors", _of_regions()),
    Case(
        "peakvi",
        "no factors, ln",
        _of_regions(cell_factors=False, region_factors=False, latent_distribution="ln"),
        is_asked=True,
    ),
    Case("peakvi", "size factor, covariates encoded", _of_regions(size_factor=True, **ENCODED)),
    Case("poissonvi", "observed library", _of_genes(small.poissonvi_network)),
    Case(
        "poissonvi",
        "latent library, batch embedded",
        _of_genes(small.poissonvi_network, batch_representation="embedding", **LATENT_LIBRARY),
    ),
    Case("multivi", "three modalities, each missing somewhere", _of_modalities({})),
    Case(
        "multivi",
        "adversary, weights by cell, Jeffreys, covariates encoded",
        _of_modalities(
            COVARIATES, adversarial_mixing=True, modality_weights="cell", modality_penalty="Jeffreys", **ENCODED
        ),
    ),
    Case(
        "multivi",
        "size factors, dispersion by cell and batch, no region factors",
        _of_modalities(
            {"size_factors": True},
            gene_likelihood="nb",
            dispersion="gene-cell",
            protein_dispersion="protein-batch",
            region_factors=False,
        ),
    ),
    Case(
        "multivi",
        "regions and proteins, learned weights, ln",
        _of_modalities(
            {"sizes": (0, 30, 6)}, modality_weights="universal", modality_penalty="none", latent_distribution="ln"
        ),
    ),
    Case("totalvi", "missing modalities and panels", _of_proteins()),
    Case("totalvi", "one panel, size factor, zinb", _of_proteins(None, size_factor=True, gene_likelihood="zinb")),
    Case(
        "totalvi",
        "adversary, latent library, covariates",
        _of_proteins(
            covariates=True,
            adversarial_mixing=True,
            dispersion="gene-batch",
            protein_dispersion="protein-batch",
            **LATENT_LIBRARY,
        ),
    ),
    Case(
        "totalvi",
        "ln, covariates not encoded",
        _of_proteins(covariates=True, latent_distribution="ln", encode_covariates=False, empirical_background=False),
    ),
]


def first_of_each(cases: list[Case]) -> list[Case]:
    """The first case of each model."""
    return list({case.model: case for case in reversed(cases)}.values())[::-1]


def name_of(case: Case) -> str:
    """For the report of a test."""
    return f"{case.model}: {case.options}"
