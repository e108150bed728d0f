"""totalVI and scvi-tools' TOTALVAE with the same weights, and the same cells for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scvi.module import TOTALVAE
from torch import Tensor

from scvi_pp._backend.models.totalvi import Hyperparameters, Inputs, Network, build
from scvi_pp._backend.sparse import SparseRows
from tests.parity.agreement import make_non_trivial
from tests.parity.weights import Pair, _body, _conditional_linear, _linear, _one_row_per_group

N_CELLS, N_BATCHES, N_LEVELS = 30, 3, (2, 5)
N_GENES, N_PROTEINS, N_LATENT = 12, 7, 4
KL_WEIGHT, SEED = 0.3, 7

COVARIATES = {"n_levels": N_LEVELS, "n_numbers": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "no covariates": {"n_batches": 1},
    "batch": {},
    "batch, categories and numbers": COVARIATES,
    "decoders alone see covariates": {**COVARIATES, "encode_covariates": False},
    "size factor": {**COVARIATES, "has_expression_size_factor": True},
    "hidden library": {**COVARIATES, "use_observed_lib_size": False},
    "dispersion by batch": {**COVARIATES, "dispersion": "gene-batch", "protein_dispersion": "protein-batch"},
    "zinb": {**COVARIATES, "gene_likelihood": "zinb"},
    "ln": {**COVARIATES, "latent_distribution": "ln"},
    "layer norm": {**COVARIATES, "use_batch_norm": "encoder", "use_layer_norm": "both"},
    "one layer in, three out": {**COVARIATES, "n_layers_encoder": 1, "n_layers_decoder": 3},
}
# of each batch: which proteins it measures
PANELS = {
    "everything": np.ones((N_BATCHES, N_PROTEINS), dtype=bool),
    "panels": np.array([[1] * 7, [1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1]], dtype=bool),
    "a batch without proteins": np.array([[1] * 7, [0] * 7, [0, 1, 1, 1, 1, 1, 1]], dtype=bool),
}


class Twins(NamedTuple):
    """Both networks with the same weights, in eval mode, and the same cells for each."""

    network: Network
    vae: TOTALVAE
    cells: Inputs[Any]
    tensors: dict[str, Tensor]
    measured: Tensor  # bool (cells, proteins)

    def peers_forward(self) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """What it infers, what it generates, and its loss."""
        torch.manual_seed(SEED)
        return self.vae(self.tensors, loss_kwargs={"kl_weight": KL_WEIGHT})

    def as_seen(self, form: str) -> Inputs[Any]:
        """The cells, as training on a CPU has them where the form says so."""
        if form != "auto on rows":
            return self.cells
        counts = {name: SparseRows.of(getattr(self.cells, name)) for name in ("expression", "protein")}
        return self.cells._replace(**counts)


def twins(setting: str, panels: str = "everything") -> Twins:
    """Weights at random, as after training."""
    hp = Hyperparameters(
        **{
            "n_genes": N_GENES,
            "n_proteins": N_PROTEINS,
            "n_batches": N_BATCHES,
            "n_levels": (),
            "n_numbers": 0,
            "has_expression_size_factor": False,
            "n_latent": N_LATENT,
            "n_hidden": 9,
            **SETTINGS[setting],
        }
    )
    table = PANELS[panels][: hp.n_batches]
    cells = _cells(hp, table)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, vae = build(hp), _peer(hp, table)
        _fill(vae)
    copy_weights_of_totalvi(network, vae)
    counted = torch.zeros(hp.n_batches, N_PROTEINS)
    measured = torch.tensor(table)[cells.batch]
    network.protein_part.get_buffer("n_measured").copy_(counted.index_add(0, cells.batch, measured.float()))
    return Twins(network.eval(), vae.eval(), cells, _as_peers(cells, hp), measured)


@torch.no_grad()
def _fill(vae: TOTALVAE) -> None:
    """As after training. What the peer reads off the layers of the mixture is read off those of genes with us."""
    make_non_trivial(vae)
    for parameter in (vae.log_per_batch_efficiency, vae.background_pro_alpha, vae.background_pro_log_beta):
        parameter.add_(0.4 * torch.randn_like(parameter))
    if vae.gene_likelihood == "zinb":
        vae.decoder.sigmoid_decoder.load_state_dict(vae.decoder.px_decoder.state_dict())


def _peer(hp: Hyperparameters, table: np.ndarray) -> TOTALVAE:
    means = np.array([[3.0, 3.5, 2.5][: hp.n_batches]], dtype=np.float32)
    return TOTALVAE(
        hp.n_genes,
        hp.n_proteins,
        n_batch=hp.n_batches,
        n_panel=hp.n_batches,
        n_hidden=hp.n_hidden,
        n_latent=hp.n_latent,
        n_layers_encoder=hp.n_layers_encoder,
        n_layers_decoder=hp.n_layers_decoder,
        n_continuous_cov=hp.n_numbers,
        n_cats_per_cov=list(hp.n_levels),
        gene_dispersion=hp.dispersion,
        protein_dispersion=hp.protein_dispersion,
        gene_likelihood=hp.gene_likelihood,
        latent_distribution=hp.latent_distribution,
        protein_batch_mask=None if table.all() else {str(i): row for i, row in enumerate(table)},
        encode_covariates=hp.encode_covariates,
        use_size_factor_key=hp.has_expression_size_factor,
        use_observed_lib_size=hp.use_observed_lib_size,
        library_log_means=means,
        library_log_vars=np.full_like(means, 0.5),
        use_batch_norm=hp.use_batch_norm,
        use_layer_norm=hp.use_layer_norm,
    )


def _cells(hp: Hyperparameters, table: np.ndarray) -> Inputs[Any]:
    rng = np.random.default_rng(0)
    batch = np.arange(N_CELLS) % hp.n_batches
    counts = rng.poisson(rng.gamma(0.7, 12, (N_CELLS, N_PROTEINS))) * table[batch]
    present = np.ones((N_CELLS, 3), dtype=bool)
    present[:, 1], present[:, 2] = False, table[batch].any(1)
    return Inputs(
        expression=torch.tensor(1.0 + rng.poisson(rng.gamma(0.7, 3, (N_CELLS, N_GENES))), dtype=torch.float32),
        protein=torch.tensor(counts, dtype=torch.float32),
        present=torch.tensor(present),
        panel=None if table.all() else torch.tensor(table[batch]),
        batch=torch.tensor(batch),
        categories=torch.tensor(np.stack([rng.integers(n, size=N_CELLS) for n in (1, *hp.n_levels)], axis=1)[:, 1:]),
        numbers=torch.tensor(rng.normal(size=(N_CELLS, hp.n_numbers)), dtype=torch.float32),
        expression_size_factor=torch.tensor(rng.lognormal(2, 0.3, N_CELLS), dtype=torch.float32)
        if hp.has_expression_size_factor
        else None,
    )


def _as_peers(cells: Inputs[Any], hp: Hyperparameters) -> dict[str, Tensor]:
    column = cells.batch[:, None]
    tensors = {"batch": column, "labels": torch.zeros_like(column), "X": cells.expression, "proteins": cells.protein}
    if hp.n_levels:
        tensors["extra_categorical_covs"] = cells.categories
    if hp.n_numbers:
        tensors["extra_continuous_covs"] = cells.numbers
    if hp.has_expression_size_factor:
        tensors["size_factor"] = cells.expression_size_factor[:, None]
    return tensors


# ---- which weight is which


def pairs_of_totalvi(network: Network, vae: TOTALVAE) -> Iterator[Pair]:
    """Every parameter and buffer of ours that the peer has, beside its twin."""
    yield from _encoder("encoder", network.encoder, vae.encoder, "encoder", "z")
    if network.library_encoder is not None:
        yield from _encoder("library_encoder", network.library_encoder, vae.encoder, "l_gene_encoder", "l_gene")
        for ours, peers in (("library_mean", vae.library_log_means), ("library_variance", vae.library_log_vars)):
            yield Pair(ours, network.get_buffer(ours), peers, lambda row: row[0])
    yield from _of_genes(network.expression_part, vae)
    yield from _of_proteins(network.protein_part, vae)


@torch.no_grad()
def copy_weights_of_totalvi(network: Network, vae: TOTALVAE) -> None:
    """Fill our network. That a batch measured a protein the peer knows from outside."""
    found = list(pairs_of_totalvi(network, vae))
    assert {pair.name for pair in found} | {"protein_part.n_measured"} == network.state_dict().keys()
    for pair in found:
        pair.ours.copy_(pair.view(pair.peers))


def _encoder(name: str, ours: Any, peers: Any, body: str, head: str) -> Iterator[Pair]:
    yield from _body(f"{name}.body", ours.body, peers.get_submodule(body))
    yield from _linear(f"{name}.mean", ours.mean, peers.get_submodule(f"{head}_mean_encoder"))
    yield from _linear(f"{name}.log_variance", ours.log_variance, peers.get_submodule(f"{head}_var_encoder"))


def _of_genes(part: Any, vae: TOTALVAE) -> Iterator[Pair]:
    name, decoder, peers = "expression_part", part.decoder, vae.decoder
    yield from _body(f"{name}.decoder.trunk", decoder.trunk, peers.px_decoder)
    heads = {"scale": peers.px_scale_decoder, "dropout_logits": peers.px_dropout_decoder_gene}
    for own, head in heads.items():
        if own == "scale" or decoder.last.dropout_logits is not None:
            linear = decoder.last.get_submodule(own)
            yield from _conditional_linear(f"{name}.decoder.last.{own}", linear, head.fc_layers[0][0])
    yield Pair(f"{name}.dispersion.log_dispersion", part.dispersion.log_dispersion, vae.px_r, _one_row_per_group)


def _of_proteins(part: Any, vae: TOTALVAE) -> Iterator[Pair]:
    name, decoder, peers = "protein_part", part.decoder, vae.decoder
    bodies = {
        "background_body": peers.py_back_decoder,
        "foreground_body": peers.py_fore_decoder,
        "mixing_body": peers.sigmoid_decoder,
    }
    heads = {
        "log_background": peers.py_back_mean_log_alpha,
        "log_background_deviation": peers.py_back_mean_log_beta,
        "excess": peers.py_fore_scale_decoder,
        "background_logits": peers.py_background_decoder,
    }
    for own, body in bodies.items():
        yield from _body(f"{name}.decoder.{own}", decoder.get_submodule(own), body)
    for own, head in heads.items():
        yield from _conditional_linear(f"{name}.decoder.{own}", decoder.get_submodule(own), head.fc_layers[0][0])
    yield Pair(f"{name}.dispersion.log_dispersion", part.dispersion.log_dispersion, vae.py_r, _one_row_per_group)
    yield Pair(f"{name}.log_efficiency", part.log_efficiency, vae.log_per_batch_efficiency, Tensor.t)
    yield Pair(f"{name}.prior_mean", part.prior_mean, vae.background_pro_alpha, Tensor.t)
    yield Pair(f"{name}.prior_log_deviation", part.prior_log_deviation, vae.background_pro_log_beta, Tensor.t)
