"""scANVI against scvi-tools: its weights copied in, the same minibatch, the same noise, every term of the loss.

The peer never looks at labels in its bound, and so ours is asked as of cells without any; what is said of labelled cells is
taken from the peer's networks term by term. The peer draws for a minibatch of labelled cells too, whose mean it then takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scvi_pp._backend.models.scanvi import Hyperparameters, Inputs, Network, build
from tests.parity.agreement import FORMS, agree, agree_each, make_non_trivial, using
from tests.parity.weights import copy_weights, pairs_of_scanvi

pytest.importorskip("scvi")

from scvi.module import SCANVAE

pytestmark = pytest.mark.parity

N_CELLS, N_GENES, N_LABELS = 24, 60, 4
KL_WEIGHT = 0.3
VALUE = 1e-5  # relative
SETTINGS: dict[str, dict[str, Any]] = {
    "zinb": {},
    "nb": {"gene_likelihood": "nb"},
    "poisson": {"gene_likelihood": "poisson"},
    "one batch": {"n_batches": 1},
    "two labels": {"n_labels": 2},
    "linear classifier": {"linear_classifier": True},
    "latent library": {"use_observed_lib_size": False},
    "gene-batch": {"dispersion": "gene-batch"},
    "gene-cell": {"dispersion": "gene-cell"},
    "two layers": {"n_layers": 2},
    "encoded covariates": {"encode_covariates": True, "n_levels": (3,), "n_numbers": 2},
    "layer norm": {"use_batch_norm": "none", "use_layer_norm": "both"},
}


def twins(setting: str) -> tuple[Network, SCANVAE, Inputs[torch.Tensor], dict[str, torch.Tensor]]:
    """Both networks with the same weights, in eval mode, and the same cells for each."""
    given = {"n_batches": 3, "n_labels": N_LABELS, "n_levels": (), "n_numbers": 0, **SETTINGS[setting]}
    hp = Hyperparameters(n_genes=N_GENES, has_size_factor=False, n_latent=5, n_hidden=16, **given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = _peer(hp).eval()
        make_non_trivial(vae)
        network = build(hp).eval()
    copy_weights(network, vae, pairs_of_scanvi)
    cells = _cells(hp)
    tensors = {"X": cells.counts, "batch": cells.batch[:, None], "labels": cells.labels[:, None]}
    if hp.n_levels:
        tensors |= {"extra_categorical_covs": cells.categories, "extra_continuous_covs": cells.numbers}
    return network, vae, cells, tensors


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_term_of_the_bound_is_the_peers(form: str, setting: str):
    network, vae, cells, tensors = twins(setting)
    torch.manual_seed(7)
    inferred, generated, loss = vae(tensors, loss_kwargs={"kl_weight": KL_WEIGHT})

    torch.manual_seed(7)
    with using(form, cells) as shown:
        posterior = network.encode(shown)
        position = posterior.q_z.rsample()
        terms = network.terms(position, network.classifier(position), posterior, shown)

    agree_each(position, inferred["z"], VALUE)
    agree_each(terms.reconstruction, generated["px"].log_prob(cells.counts).sum(1), VALUE)
    agree_each(terms.of_position - terms.reconstruction, loss.reconstruction_loss["reconstruction_loss"], VALUE)
    of_label_and_rest, of_library = terms.of_rest + terms.of_label, terms.of_library
    (expected,) = loss.kl_local.values()
    agree_each(of_label_and_rest + of_library, expected, VALUE)
    whole = terms.of_position - terms.reconstruction + KL_WEIGHT * (of_label_and_rest + of_library)
    agree_each(whole.mean(), loss.loss, VALUE)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_missed_labels_cost_is_the_peers_at_the_mean(setting: str):
    network, vae, cells, tensors = twins(setting)
    labelled = {name: tensor[:10] for name, tensor in tensors.items()}
    torch.manual_seed(7)
    ratio = network.hyperparameters.classification_weight
    _, _, with_labels = vae(tensors, loss_kwargs={"labelled_tensors": labelled, "classification_ratio": ratio})
    some = Inputs(*(None if field is None else field[:10] for field in cells))
    assert (some.labels < network.hyperparameters.n_labels).all()
    supervision = network.elbo(some).supervision
    agree_each(supervision.mean(), ratio * with_labels.classification_loss, VALUE)
    agree(network.label_logits(network.encode(some).q_z.loc), with_labels.logits, VALUE)


@pytest.mark.parametrize("setting", ["zinb", "two layers", "linear classifier"])
def test_the_bound_of_a_labelled_cell_is_made_of_the_peers_networks(setting: str):
    """log p(x, y): of the mixture over labels the part of the one it has."""
    network, vae, cells, _ = twins(setting)
    n_labels = network.hyperparameters.n_labels
    torch.manual_seed(7)
    posterior = network.encode(cells)
    position = posterior.q_z.rsample()
    known = torch.where(F.one_hot(cells.labels.clamp(max=n_labels - 1), n_labels).bool(), 0.0, -1e4)
    state = torch.random.get_rng_state()
    terms = network.terms(position, known, posterior, cells)

    torch.random.set_rng_state(state)
    repeated = position.repeat(n_labels, 1)
    label = torch.arange(n_labels).repeat_interleave(N_CELLS)[:, None]
    q_rest, rest = vae.encoder_z2_z1(repeated, label)
    mean, variance = vae.decoder_z1_z2(rest, label)
    own = cells.labels.clamp(max=n_labels - 1) * N_CELLS + torch.arange(N_CELLS)
    log_p = torch.distributions.Normal(mean, variance.sqrt()).log_prob(repeated).sum(1)[own]
    divergence = torch.distributions.kl_divergence(q_rest, torch.distributions.Normal(0.0, 1.0)).sum(1)[own]
    agree_each(terms.of_position, posterior.q_z.log_prob(position).sum(1) - log_p, VALUE)
    agree_each(terms.of_rest, divergence, VALUE)
    agree_each(terms.of_label, torch.full((N_CELLS,), float(np.log(n_labels))), VALUE)


def test_a_network_in_training_takes_the_labels_into_its_bound():
    """With norms and dropout as they are in eval mode, of cells that all have one."""
    network, _, cells, _ = twins("zinb")
    n_labels = network.hyperparameters.n_labels
    some = Inputs(*(None if field is None else field[:10] for field in cells))
    network.training = True
    torch.manual_seed(3)
    elbo = network.elbo(some)
    torch.manual_seed(3)
    posterior = network.encode(some)
    position, _ = posterior.q_z.rsample(), posterior.q_z.rsample()
    known = torch.where(F.one_hot(some.labels, n_labels).bool(), 0.0, -1e4)
    terms = network.terms(position, known, posterior, some, F.one_hot(some.labels, n_labels).bool())
    agree_each(elbo.bound, terms.reconstruction - terms.of_position - terms.of_rest - terms.of_label, VALUE)


def _peer(hp: Hyperparameters) -> SCANVAE:
    """As SCANVI builds it."""
    rng = np.random.default_rng(1)
    return SCANVAE(
        n_input=hp.n_genes,
        n_batch=hp.n_batches,
        n_labels=hp.n_labels,
        n_continuous_cov=hp.n_numbers,
        n_cats_per_cov=list(hp.n_levels) or None,
        n_hidden=hp.n_hidden,
        n_latent=hp.n_latent,
        n_layers=hp.n_layers,
        dropout_rate=hp.dropout_rate,
        dispersion=hp.dispersion,
        gene_likelihood=hp.gene_likelihood,
        linear_classifier=hp.linear_classifier,
        encode_covariates=hp.encode_covariates,
        use_observed_lib_size=hp.use_observed_lib_size,
        use_batch_norm=hp.use_batch_norm,
        use_layer_norm=hp.use_layer_norm,
        library_log_means=rng.normal(3, 0.3, (1, hp.n_batches)),
        library_log_vars=rng.uniform(0.1, 0.5, (1, hp.n_batches)),
    )


def _cells(hp: Hyperparameters) -> Inputs[torch.Tensor]:
    """The first ten have a label, of the others some have none."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 4, N_GENES) * rng.lognormal(0, 0.5, (N_CELLS, 1)))
    assert (counts.sum(1) > 0).all()  # the peer's loss of an empty cell is NaN
    labels = np.append(rng.integers(hp.n_labels, size=10), rng.integers(hp.n_labels + 1, size=N_CELLS - 10))
    categories = [rng.integers(n, size=N_CELLS) for n in hp.n_levels]
    return Inputs(
        counts=torch.tensor(counts, dtype=torch.float32),
        batch=torch.tensor(rng.integers(hp.n_batches, size=N_CELLS)),
        labels=torch.tensor(labels),
        categories=torch.tensor(np.array(categories, dtype=np.int64).reshape(len(hp.n_levels), N_CELLS).T),
        numbers=torch.tensor(rng.normal(size=(N_CELLS, hp.n_numbers)), dtype=torch.float32),
        size_factor=None,
    )
