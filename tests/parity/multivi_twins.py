"""MultiVI and scvi-tools' MULTIVAE with the same weights, and cells of many kinds for both."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scvi.module import MULTIVAE
from torch import Tensor

from scvi_pp._backend.models.multivi import Hyperparameters, Inputs, Network, build
from scvi_pp._backend.sparse import SparseRows
from tests.parity.agreement import make_non_trivial
from tests.parity.multivi_weights import copy_weights_of_multivi

N_CELLS, N_BATCHES, N_LEVELS = 28, 3, (2, 5)
N_LATENT = 5
KL_WEIGHT = 0.3

COVARIATES = {"n_levels": N_LEVELS, "n_numbers": 2}
ENCODED = {**COVARIATES, "encode_covariates": True}
SIZE_FACTORS = {"has_expression_size_factor": True, "has_accessibility_size_factor": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "no covariates": {"n_batches": 1},
    "batch": {},
    "batch, categories and numbers": COVARIATES,
    "encoded covariates": ENCODED,
    "deeply injected covariates": {**ENCODED, "deeply_inject_covariates": True},
    "size factors": {**COVARIATES, **SIZE_FACTORS},
    "no region factors": {**COVARIATES, "region_factors": False},
    "ln": {**COVARIATES, "latent_distribution": "ln"},
    "batch norm": {**ENCODED, "use_batch_norm": "both", "use_layer_norm": "none"},
    "norms apart": {**ENCODED, "use_batch_norm": "encoder", "use_layer_norm": "decoder"},
    "one layer in, three out": {**ENCODED, "n_layers_encoder": 1, "n_layers_decoder": 3},
    "nb": {**COVARIATES, "gene_likelihood": "nb"},
    "poisson": {**COVARIATES, "gene_likelihood": "poisson"},
    "dispersion by batch": {**COVARIATES, "dispersion": "gene-batch", "protein_dispersion": "protein-batch"},
    "dispersion by batch, nb": {**COVARIATES, "dispersion": "gene-batch", "gene_likelihood": "nb"},
    "dispersion by cell": {**COVARIATES, "dispersion": "gene-cell"},
    "dispersion by cell, nb": {**COVARIATES, "dispersion": "gene-cell", "gene_likelihood": "nb"},
    "universal weights": {**COVARIATES, "modality_weights": "universal"},
    "weights of cells": {**COVARIATES, "modality_weights": "cell"},
    "no penalty": {**COVARIATES, "modality_penalty": "none"},
    "MMD": {**COVARIATES, "modality_penalty": "MMD"},
    "Jeffreys": {**COVARIATES, "modality_penalty": "Jeffreys"},
    "RNA and chromatin": {**COVARIATES, "n_proteins": 0},
    "RNA and proteins": {**COVARIATES, "n_regions": 0},
    "RNA alone": {**COVARIATES, "n_regions": 0, "n_proteins": 0},
    "chromatin alone": {**COVARIATES, "n_genes": 0, "n_proteins": 0},
    "RNA and chromatin, learned weights": {**COVARIATES, "n_proteins": 0, "modality_weights": "universal"},
}
# which cells have expression, accessibility and proteins
MEASURED = {
    "mosaic": [(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)],
    "all": [(1, 1, 1)],
    "unpaired": [(1, 0, 0), (0, 1, 0)],
    "RNA alone": [(1, 0, 0)],
}


class Twins(NamedTuple):
    """Both networks with the same weights, in eval mode, and the same cells for each."""

    network: Network
    vae: MULTIVAE
    cells: Inputs[Any]
    tensors: dict[str, Tensor]

    def peers_forward(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Whose encoders see what ours see, and whose likelihoods see counts."""
        vae, tensors = self.vae, self.tensors
        seen = {**tensors, **{name: tensors[name].log1p() for name in ("X", "proteins") if name in tensors}}
        if "atac" in tensors:
            seen["atac"] = tensors["atac"].sign()
        torch.manual_seed(7)
        inferred = vae.inference(**vae._get_inference_input(seen))
        inferred["x"] = torch.cat([tensors[name] for name in ("X", "atac") if name in tensors], dim=1)
        given = vae._get_generative_input(tensors, inferred)
        generated = vae.generative(**given)
        generated["px_r"] = _dispersion(self.network.hyperparameters.dispersion, vae, given)
        return inferred, generated, vae.loss(tensors, inferred, generated, kl_weight=KL_WEIGHT)

    def seed(self, n_skipped: int = 3) -> None:
        """Of the draws that the peer makes, leave out those of each modality by itself."""
        torch.manual_seed(7)
        for _ in range(n_skipped):
            torch.normal(torch.zeros(N_CELLS, N_LATENT), torch.ones(N_CELLS, N_LATENT))

    def as_seen(self, form: str) -> Inputs[Any]:
        """The cells, as training on a CPU has them where the form says so."""
        if form != "auto on rows":
            return self.cells
        counts = {name: getattr(self.cells, name) for name in ("expression", "accessibility", "protein")}
        return self.cells._replace(**{name: None if x is None else SparseRows.of(x) for name, x in counts.items()})


def _dispersion(of: str, vae: MULTIVAE, given: dict[str, Any]) -> Tensor | None:
    """What the peer computes and then drops."""
    if of == "gene-batch":
        return F.linear(F.one_hot(given["batch_index"][:, 0], vae.n_batch).float(), vae.px_r).exp()
    if of == "gene-cell":
        z = given["z"] if given["cont_covs"] is None else torch.cat([given["z"], given["cont_covs"]], dim=1)
        return vae.z_decoder_expression(
            "gene-cell", z, given["libsize_expr"], given["batch_index"], *given["cat_covs"].split(1, dim=1)
        )[1].exp()
    return vae.px_r.exp()


def twins(setting: str, measured: str = "mosaic") -> Twins:
    hp = _hyperparameters(setting)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = _peer(hp).eval()
        make_non_trivial(vae)
        with torch.no_grad():  # or a background of a millionth meets the peer's epsilon
            vae.z_decoder_pro.py_back_mean_log_beta.fc_layers[0][0].weight.mul_(0.2)
        if hp.region_factors:
            torch.nn.init.normal_(vae.region_factors)
        if hp.modality_weights != "equal":
            torch.nn.init.normal_(vae.mod_weights)
        network = build(hp).eval()
    copy_weights_of_multivi(network, vae)
    cells = _cells(hp, MEASURED[measured])
    return Twins(network, vae, cells, _as_peers(cells, hp))


def any_measured(setting: str, measured: str) -> bool:
    """Whether every cell has something of what is modelled: the peer's posterior of nothing means nothing."""
    hp = _hyperparameters(setting)
    known = np.array([hp.n_genes, hp.n_regions, hp.n_proteins]) > 0
    return bool((np.array(MEASURED[measured], dtype=bool) & known).any(1).all())


def _hyperparameters(setting: str) -> Hyperparameters:
    given = {
        "n_genes": 30,
        "n_regions": 60,
        "n_proteins": 8,
        "n_cells": N_CELLS,
        "n_batches": N_BATCHES,
        "n_levels": (),
        "n_numbers": 0,
        "has_expression_size_factor": False,
        "has_accessibility_size_factor": False,
        **SETTINGS[setting],
    }
    return Hyperparameters(n_latent=N_LATENT, n_hidden=16, **given)


def _peer(hp: Hyperparameters) -> MULTIVAE:
    with warnings.catch_warnings(action="ignore"):  # layers without any output
        vae = MULTIVAE(
            n_input_regions=hp.n_regions,
            n_input_genes=hp.n_genes,
            n_input_proteins=hp.n_proteins,
            modality_weights=hp.modality_weights,
            modality_penalty="None" if hp.modality_penalty == "none" else hp.modality_penalty,
            n_batch=hp.n_batches,
            n_obs=hp.n_cells,
            gene_likelihood=hp.gene_likelihood,
            gene_dispersion=hp.dispersion,
            n_hidden=hp.n_hidden,
            n_latent=hp.n_latent,
            n_layers_encoder=hp.n_layers_encoder,
            n_layers_decoder=hp.n_layers_decoder,
            n_continuous_cov=hp.n_numbers,
            n_cats_per_cov=list(hp.n_levels),
            region_factors=hp.region_factors,
            use_batch_norm=hp.use_batch_norm,
            use_layer_norm=hp.use_layer_norm,
            latent_distribution=hp.latent_distribution,
            deeply_inject_covariates=hp.deeply_inject_covariates,
            encode_covariates=hp.encode_covariates,
            use_size_factor_key=hp.has_expression_size_factor,
            protein_dispersion=hp.protein_dispersion,
        )
    if hp.dispersion == "gene-cell":
        vae.gene_dispersion, vae.px_r = "gene", torch.zeros(hp.n_genes)  # or the peer ends with an error
    return vae


def _cells(hp: Hyperparameters, measured: list[tuple[int, ...]]) -> Inputs[Any]:
    rng = np.random.default_rng(0)
    present = np.resize(np.array(measured, dtype=bool), (N_CELLS, 3))

    def of(column: int, n_features: int, mean: float) -> Tensor | None:
        counts = rng.poisson(rng.gamma(0.7, mean / 0.7, (N_CELLS, n_features)))
        counts[:, :1] += 1  # what the peer takes for measured
        return torch.tensor(counts * present[:, [column]], dtype=torch.float32) if n_features else None

    return Inputs(
        expression=of(0, hp.n_genes, 2.0),
        accessibility=of(1, hp.n_regions, 0.4),
        protein=of(2, hp.n_proteins, 20.0),
        present=torch.tensor(present),
        batch=torch.tensor(rng.integers(hp.n_batches, size=N_CELLS)),
        categories=torch.tensor(np.stack([rng.integers(n, size=N_CELLS) for n in (1, *hp.n_levels)], axis=1)[:, 1:]),
        numbers=torch.tensor(rng.normal(size=(N_CELLS, hp.n_numbers)), dtype=torch.float32),
        expression_size_factor=_factors(rng.lognormal(2, 0.3, N_CELLS)) if hp.has_expression_size_factor else None,
        accessibility_size_factor=_factors(rng.uniform(0.2, 0.9, N_CELLS))
        if hp.has_accessibility_size_factor
        else None,
        row=torch.arange(N_CELLS),
    )


def _factors(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _as_peers(cells: Inputs[Any], hp: Hyperparameters) -> dict[str, Tensor]:
    column = cells.batch[:, None]
    tensors = {"batch": column, "labels": torch.zeros_like(column), "ind_x": cells.row[:, None]}
    for name, counts in (("X", cells.expression), ("atac", cells.accessibility), ("proteins", cells.protein)):
        if counts is not None:
            tensors[name] = counts.clone()
    if hp.n_levels:
        tensors["extra_categorical_covs"] = cells.categories
    if hp.n_numbers:
        tensors["extra_continuous_covs"] = cells.numbers
    if hp.has_expression_size_factor:
        tensors["size_factor"] = torch.stack([cells.expression_size_factor, cells.accessibility_size_factor], dim=1)
    return tensors
