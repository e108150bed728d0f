"""Linear scVI against scvi-tools: its weights copied in, the same minibatch, the same noise.

The peer's map is followed by a batch norm, which in eval mode is one more linear map: ours has both folded into one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend.models.linear_scvi import Hyperparameters, Inputs, Network, build
from tests.parity.agreement import FORMS, agree, agree_each, make_non_trivial, using
from tests.parity.weights import copy_encoders

pytest.importorskip("scvi")

from scvi.module import LDVAE

pytestmark = pytest.mark.parity

N_CELLS, N_GENES = 24, 60
KL_WEIGHT = 0.3
VALUE = 1e-5  # relative
SETTINGS: dict[str, dict[str, Any]] = {
    "nb": {},
    "one batch": {"n_batches": 1},
    "zinb": {"gene_likelihood": "zinb"},
    "poisson": {"gene_likelihood": "poisson"},
    "gene-batch": {"dispersion": "gene-batch"},
    "latent library": {"use_observed_lib_size": False},
    "ln": {"latent_distribution": "ln"},
    "two layers": {"n_layers": 2},
}


def twins(setting: str) -> tuple[Network, LDVAE, Inputs[torch.Tensor], dict[str, torch.Tensor]]:
    """Both networks with the same weights, in eval mode, and the same cells for each."""
    given = {"n_batches": 3, **SETTINGS[setting]}
    shape = {"n_labels": 1, "n_levels": (), "n_numbers": 0, "has_size_factor": False, "n_latent": 5, "n_hidden": 16}
    hp = Hyperparameters(n_genes=N_GENES, **shape, **given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = _peer(hp).eval()
        make_non_trivial(vae)
        # rates that are not below the 1e-8 that the peer adds to each
        vae.decoder.factor_regressor.fc_layers[0][0].weight.data.mul_(0.3)
        network = build(hp).eval()
    with torch.no_grad():
        copy_encoders(network.scvi, vae)
        _fold(network.scvi.decoder.scale, vae.decoder.factor_regressor)
        if network.scvi.decoder.dropout_logits is not None:
            _fold(network.scvi.decoder.dropout_logits, vae.decoder.px_dropout_decoder)
        if network.scvi.log_dispersion is not None:
            network.scvi.log_dispersion.copy_(vae.px_r[None] if vae.px_r.ndim == 1 else vae.px_r.T)
    cells = _cells(hp)
    return network, vae, cells, {"X": cells.counts, "batch": cells.batch[:, None], "labels": cells.labels[:, None]}


def _fold(ours: Any, peers: Any) -> None:
    """Linear map and batch norm as one linear map, of which the last columns are the batches."""
    linear, norm = peers.fc_layers[0][:2]
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight, n_in = slope[:, None] * linear.weight, ours.linear.in_features
    ours.linear.weight.copy_(weight[:, :n_in])
    ours.linear.bias.copy_(norm.bias - slope * norm.running_mean)
    for shift in ours.shifts:
        shift.weight.copy_(weight[:, n_in:].T)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_term_of_the_loss_is_the_peers(form: str, setting: str):
    network, vae, cells, tensors = twins(setting)
    torch.manual_seed(7)
    _, _, loss = vae(tensors, loss_kwargs={"kl_weight": KL_WEIGHT})

    torch.manual_seed(7)
    with using(form, cells) as shown:
        elbo = network.elbo(shown)

    agree_each(-elbo.reconstruction, loss.reconstruction_loss["reconstruction_loss"], VALUE)
    agree_each(elbo.divergence, loss.kl_local["kl_divergence_z"], VALUE)
    agree_each(elbo.fixed_divergence, loss.kl_local["kl_divergence_l"], VALUE)
    agree_each(elbo.loss(KL_WEIGHT), loss.loss, VALUE)


@pytest.mark.parametrize("setting", SETTINGS)
def test_shares_are_the_peers(setting: str):
    network, vae, cells, tensors = twins(setting)
    torch.manual_seed(7)
    inferred, generated, _ = vae(tensors, loss_kwargs={"kl_weight": KL_WEIGHT})
    agree_each(network.expression(inferred["z"], cells), generated["px"].scale, VALUE)
    columns = torch.tensor([7, 2, 40])
    agree_each(network.expression(inferred["z"], cells, columns), generated["px"].scale[:, columns], VALUE)


@pytest.mark.parametrize("setting", SETTINGS)
def test_loadings_are_the_peers_beside_the_mean_gene(setting: str):
    network, vae, _, _ = twins(setting)
    expected = torch.tensor(vae.get_loadings())
    agree(network.loadings(), expected - expected.mean(0), 1e-6)


def _peer(hp: Hyperparameters) -> LDVAE:
    """As LinearSCVI builds it."""
    rng = np.random.default_rng(1)
    return LDVAE(
        n_input=hp.n_genes,
        n_batch=hp.n_batches,
        n_hidden=hp.n_hidden,
        n_latent=hp.n_latent,
        n_layers_encoder=hp.n_layers,
        dispersion=hp.dispersion,
        gene_likelihood=hp.gene_likelihood,
        latent_distribution=hp.latent_distribution,
        use_observed_lib_size=hp.use_observed_lib_size,
        library_log_means=rng.normal(3, 0.3, (1, hp.n_batches)),
        library_log_vars=rng.uniform(0.1, 0.5, (1, hp.n_batches)),
    )


def _cells(hp: Hyperparameters) -> Inputs[torch.Tensor]:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 4, N_GENES) * rng.lognormal(0, 0.5, (N_CELLS, 1)))
    assert (counts.sum(1) > 0).all()  # the peer's loss of an empty cell is NaN
    return Inputs(
        counts=torch.tensor(counts, dtype=torch.float32),
        batch=torch.tensor(rng.integers(hp.n_batches, size=N_CELLS)),
        labels=torch.zeros(N_CELLS, dtype=torch.int64),
        categories=torch.zeros((N_CELLS, 0), dtype=torch.int64),
        numbers=torch.zeros((N_CELLS, 0)),
        size_factor=None,
    )
