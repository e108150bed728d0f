"""scVI against scvi-tools: its weights copied in, the same minibatch, the same noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from scvi_pp._backend import kernels
from scvi_pp._backend.models.scvi import Hyperparameters, Inputs, Network, build
from tests.parity.agreement import (
    agree,
    agree_each,
    agree_in_every_gradient,
    every_combination,
    make_non_trivial,
)
from tests.parity.weights import copy_weights, pairs

pytest.importorskip("scvi")

from scvi.module import VAE

pytestmark = pytest.mark.parity

LIKELIHOODS = ("zinb", "nb", "poisson", "normal")
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")
N_CELLS, N_GENES, N_BATCHES, N_LABELS, N_LEVELS = 24, 30, 3, 4, (2, 5)
KL_WEIGHT = 0.3
VALUE = 1e-5  # relative

# every way in which covariates, library size and layers are put together
COVARIATES = {"n_levels": N_LEVELS, "n_numbers": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "no covariates": {"n_batches": 1},
    "batch": {},
    "batch, categories and numbers": COVARIATES,
    "a category with one level": {"n_levels": (1, 3)},
    "encoded covariates": {**COVARIATES, "encode_covariates": True},
    "embedding": {**COVARIATES, "batch_representation": "embedding"},
    "encoded embedding": {**COVARIATES, "batch_representation": "embedding", "encode_covariates": True},
    "latent library": {**COVARIATES, "use_observed_lib_size": False},
    "encoded latent library": {**COVARIATES, "use_observed_lib_size": False, "encode_covariates": True},
    "size factor": {**COVARIATES, "has_size_factor": True},
    "ln": {**COVARIATES, "latent_distribution": "ln"},
    "ln and latent library": {**COVARIATES, "latent_distribution": "ln", "use_observed_lib_size": False},
    "two layers": {**COVARIATES, "n_layers": 2, "encode_covariates": True},
    "two layers, shallow": {
        **COVARIATES,
        "n_layers": 2,
        "encode_covariates": True,
        "deeply_inject_covariates": False,
        "use_observed_lib_size": False,
    },
    "layer norm": {**COVARIATES, "use_batch_norm": "none", "use_layer_norm": "both"},
    "both norms": {**COVARIATES, "use_layer_norm": "both"},
    "norms apart": {**COVARIATES, "use_batch_norm": "encoder", "use_layer_norm": "decoder"},
    "no norms": {**COVARIATES, "use_batch_norm": "none"},
}
TYPICAL = "batch, categories and numbers"
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
# every likelihood and dispersion in the typical setting, every setting with the defaults; at night all of them together
every_network = pytest.mark.parametrize(
    ("likelihood", "dispersion", "setting"),
    every_combination(
        (LIKELIHOODS, DISPERSIONS, SETTINGS),
        at_least=lambda likelihood, dispersion, setting: (
            setting == TYPICAL or (likelihood, dispersion) == ("zinb", "gene")
        ),
    ),
)


class Twins(NamedTuple):
    """Both networks with the same weights, in eval mode, and the same cells for each."""

    network: Network
    vae: VAE
    cells: Inputs[torch.Tensor]
    tensors: dict[str, torch.Tensor]

    def peers_forward(self, seed: int = 7) -> tuple[dict[str, Any], dict[str, Any], Any]:
        torch.manual_seed(seed)
        return self.vae(self.tensors, loss_kwargs={"kl_weight": KL_WEIGHT})


def twins(
    likelihood: str, dispersion: str, setting: str, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Twins:
    hp = _hyperparameters(likelihood, dispersion, setting)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = _peer(hp).to(dtype).eval()
        make_non_trivial(vae)
        network = build(hp).to(dtype).eval()
    copy_weights(network, vae)
    cells = _cells(hp, seed, dtype)
    return Twins(network, vae, cells, _as_peers(cells, hp))


@every_network
def test_every_term_of_the_loss_is_the_peers(likelihood: str, dispersion: str, setting: str):
    two = twins(likelihood, dispersion, setting)
    _, _, loss = two.peers_forward()

    torch.manual_seed(7)
    elbo = two.network.elbo(two.cells)

    agree_each(-elbo.reconstruction, loss.reconstruction_loss["reconstruction_loss"], VALUE)
    agree_each(elbo.divergence, loss.kl_local["kl_divergence_z"], VALUE)
    agree_each(elbo.fixed_divergence, loss.kl_local["kl_divergence_l"], VALUE)
    agree_each(elbo.loss(KL_WEIGHT), loss.loss, VALUE)


@every_network
def test_posterior_and_likelihood_have_the_peers_parameters(likelihood: str, dispersion: str, setting: str):
    two = twins(likelihood, dispersion, setting)
    inferred, generated, _ = two.peers_forward()

    torch.manual_seed(7)
    posterior = two.network.encode(two.cells)
    z = two.network.latent(posterior.q_z.rsample())
    library = posterior.library if posterior.q_library is None else posterior.q_library.rsample()
    p_x = two.network.decode(z, library, two.cells)

    agree(posterior.q_z.mean, inferred["qz"].loc, VALUE)
    agree_each(posterior.q_z.variance, inferred["qz"].variance, VALUE)
    agree(z, inferred["z"], VALUE)
    if posterior.q_library is not None:
        agree(posterior.q_library.mean, inferred["ql"].loc, VALUE)
        agree_each(posterior.q_library.variance, inferred["ql"].variance, VALUE)
        agree_each(two.network.p_library(two.cells).mean, generated["pl"].loc, VALUE)
        agree_each(two.network.p_library(two.cells).variance, generated["pl"].variance, VALUE)
    if not two.network.hyperparameters.has_size_factor:
        agree(library, inferred["library"], VALUE)
    theirs = _peers_parameters(likelihood, generated["px"])
    agree_each(two.network.log_scale(z, two.cells).exp(), theirs.pop("scale"), VALUE)
    ours = p_x.parameters()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        agree_each(value, theirs[name].expand_as(value), VALUE)


@every_network
def test_every_gradient_is_the_peers(likelihood: str, dispersion: str, setting: str):
    two = twins(likelihood, dispersion, setting)
    two.peers_forward()[2].loss.backward()

    torch.manual_seed(7)
    two.network.elbo(two.cells).loss(KL_WEIGHT).backward()

    agree_in_every_gradient(two.network, two.vae, pairs)


@pytest.mark.parametrize("form", ["auto", "reference"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])  # the others the peer computes in float32
@every_likelihood
def test_the_loss_is_the_peers_to_seven_digits_in_float64(likelihood: str, dispersion: str, form: str):
    """The 1e-8 inside the peer's logarithms is all that is left."""
    two = twins(likelihood, dispersion, "encoded covariates", dtype=torch.float64)
    _, _, loss = two.peers_forward()
    torch.manual_seed(7)
    with kernels.use(form):
        elbo = two.network.elbo(two.cells)
    agree_each(-elbo.reconstruction, loss.reconstruction_loss["reconstruction_loss"], 1e-7)
    agree_each(elbo.divergence, loss.kl_local["kl_divergence_z"], 1e-12)


def _hyperparameters(likelihood: str, dispersion: str, setting: str) -> Hyperparameters:
    given = {"n_batches": N_BATCHES, "n_levels": (), "n_numbers": 0, "has_size_factor": False, **SETTINGS[setting]}
    return Hyperparameters(
        n_genes=N_GENES,
        n_labels=N_LABELS,
        n_latent=5,
        n_hidden=16,
        dispersion=dispersion,
        gene_likelihood=likelihood,
        **given,
    )


def _peer(hp: Hyperparameters) -> VAE:
    rng = np.random.default_rng(1)
    return VAE(
        n_input=hp.n_genes,
        n_batch=hp.n_batches,
        n_labels=hp.n_labels,
        n_hidden=hp.n_hidden,
        n_latent=hp.n_latent,
        n_layers=hp.n_layers,
        n_continuous_cov=hp.n_numbers,
        n_cats_per_cov=list(hp.n_levels),
        dispersion=hp.dispersion,
        gene_likelihood=hp.gene_likelihood,
        latent_distribution=hp.latent_distribution,
        encode_covariates=hp.encode_covariates,
        deeply_inject_covariates=hp.deeply_inject_covariates,
        batch_representation=hp.batch_representation,
        use_batch_norm=hp.use_batch_norm,
        use_layer_norm=hp.use_layer_norm,
        use_size_factor_key=hp.has_size_factor,
        use_observed_lib_size=hp.use_observed_lib_size,
        library_log_means=rng.normal(3, 0.3, (1, hp.n_batches)),
        library_log_vars=rng.uniform(0.1, 0.5, (1, hp.n_batches)),
    )


def _cells(hp: Hyperparameters, seed: int, dtype: torch.dtype) -> Inputs[torch.Tensor]:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.7, 2, N_GENES) * rng.lognormal(0, 0.5, (N_CELLS, 1))
    counts = rng.poisson(mean * rng.gamma(2, 0.5, (N_CELLS, N_GENES)))
    assert (counts.sum(1) > 0).all()  # the peer's loss of an empty cell is NaN
    if hp.gene_likelihood == "normal":
        counts = np.log1p(counts)
    return Inputs(
        counts=torch.tensor(counts, dtype=dtype),
        batch=torch.tensor(rng.integers(hp.n_batches, size=N_CELLS)),
        labels=torch.tensor(rng.integers(hp.n_labels, size=N_CELLS)),
        categories=torch.tensor(np.stack([rng.integers(n, size=N_CELLS) for n in (1, *hp.n_levels)], axis=1)[:, 1:]),
        numbers=torch.tensor(rng.normal(size=(N_CELLS, hp.n_numbers)), dtype=dtype),
        size_factor=torch.tensor(rng.lognormal(1, 0.5, N_CELLS), dtype=dtype) if hp.has_size_factor else None,
    )


def _as_peers(cells: Inputs[torch.Tensor], hp: Hyperparameters) -> dict[str, torch.Tensor]:
    tensors = {"X": cells.counts, "batch": cells.batch[:, None], "labels": cells.labels[:, None]}
    if hp.n_levels:
        tensors["extra_categorical_covs"] = cells.categories
    if hp.n_numbers:
        tensors["extra_continuous_covs"] = cells.numbers
    if cells.size_factor is not None:
        tensors["size_factor"] = cells.size_factor[:, None]
    return tensors


def _peers_parameters(likelihood: str, px: Any) -> dict[str, torch.Tensor]:
    """By our names."""
    if likelihood == "poisson":
        return {"mean": px.rate, "scale": px.scale}
    if likelihood == "normal":
        return {"mean": px.loc, "standard_deviation": px.scale, "scale": px.normal_mu}
    both = {"mean": px.mu, "dispersion": px.theta, "scale": px.scale}
    return both if likelihood == "nb" else {**both, "dropout": torch.sigmoid(px.zi_logits)}
