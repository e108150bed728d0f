"""totalVI against scvi-tools: its weights copied in, the same minibatch, the same noise.

What differs on purpose is pinned here, by what the peer does instead: its mean of a cell's proteins counts what was not
measured as zeros; the density of efficiencies is that of their value and not of their log; terms of proteins that were not
measured count; proteins are warmed up with the KL term; and a library is drawn whether it is used or not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import LogNormal

from scvi_pp._backend import kernels, priors
from scvi_pp._backend.adversary import Adversary
from scvi_pp._backend.encoders import log_of_relative
from scvi_pp._backend.models import totalvi
from tests.parity.agreement import FORMS, GRADIENT, agree, agree_each, make_non_trivial

pytest.importorskip("scvi")

from scvi.module import Classifier
from scvi.train import AdversarialTrainingPlan

from tests.parity.totalvi_twins import (
    KL_WEIGHT,
    N_BATCHES,
    N_LATENT,
    PANELS,
    SEED,
    SETTINGS,
    Twins,
    pairs_of_totalvi,
    twins,
)
from tests.parity.weights import _body, _linear

pytestmark = pytest.mark.parity

VALUE = 1e-5  # relative

every_setting = pytest.mark.parametrize("setting", SETTINGS)
every_form = pytest.mark.parametrize("form", FORMS)
WAYS = [(setting, "everything") for setting in SETTINGS] + [
    (setting, panels)
    for setting in ("batch", "size factor", "hidden library", "dispersion by batch", "batch, categories and numbers")
    for panels in PANELS
    if panels != "everything"
]
every_way = pytest.mark.parametrize(("setting", "panels"), WAYS)


class Terms(NamedTuple):
    """Of our objective, (cells,) each."""

    z: Tensor
    rna: Tensor
    proteins: totalvi.ProteinTerms
    divergence_of_z: Tensor
    divergence_of_library: Tensor


def mean_over_all(counts: Any, n_measured: Tensor) -> Any:
    """What was not measured is a zero among others."""
    return log_of_relative(counts, torch.full_like(n_measured, counts.shape[1]))


@pytest.fixture
def as_the_peer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(totalvi, "log_of_relative", mean_over_all)


def our_terms(two: Twins, form: str = "auto") -> Terms:
    """With the draws of the peer: position, library, background."""
    network, cells = two.network, two.as_seen(form)
    with kernels.use("reference" if form == "reference" else "auto"):
        posterior = network.encode(cells)
        torch.manual_seed(SEED)
        z = network.latent(posterior.q_z.rsample())
        library, divergence = network._drawn_library(posterior, cells)
        if posterior.q_library is None:
            torch.normal(torch.zeros(len(z), 1), torch.ones(len(z), 1))
        return Terms(
            z,
            network.expression_part.log_likelihood(z, library, cells),
            network.protein_part.terms(z, cells),
            priors.divergence_from_standard_normal(posterior.q_z),
            divergence,
        )


def peers_efficiency(generated: dict[str, Any]) -> Tensor:
    """Negative log density of each efficiency, (cells, proteins)."""
    return -LogNormal(0.0, 1.0).log_prob(generated["per_batch_efficiency"])


def peers_leaning(generated: dict[str, Any]) -> Tensor:
    """What foreground costs, (cells, proteins)."""
    return 1e-3 * torch.nn.functional.softplus(-generated["py_"]["mixing"])


def loss_as_the_peer(two: Twins, terms: Terms) -> Tensor:
    """Where everything was measured: proteins warmed up too, efficiencies by the density of their value."""
    log_efficiency = two.network.protein_part.log_efficiency[two.cells.batch].sum(1)
    proteins = terms.proteins
    warmed_up = proteins.divergence + proteins.efficiency + log_efficiency + proteins.leaning - proteins.reconstruction
    return (-terms.rna + terms.divergence_of_library + KL_WEIGHT * (terms.divergence_of_z + warmed_up)).mean()


@every_way
@every_form
@pytest.mark.usefixtures("as_the_peer")
def test_every_term_is_the_peers(form: str, setting: str, panels: str):
    two = twins(setting, panels)
    inferred, generated, loss = two.peers_forward()
    ours, measured = our_terms(two, form), two.measured
    agree(ours.z, inferred["z"], VALUE)
    agree_each(-ours.rna, loss.reconstruction_loss["reconst_loss_gene"], VALUE)
    agree(-ours.proteins.reconstruction, loss.reconstruction_loss["reconst_loss_protein"], VALUE)
    agree_each(ours.divergence_of_z, loss.kl_local["kl_div_z"], VALUE)
    agree(ours.divergence_of_library, loss.kl_local["kl_div_l_gene"], VALUE)

    efficiency, leaning = peers_efficiency(generated), peers_leaning(generated)
    rest = efficiency.sum(1) + leaning.sum(1)
    agree(ours.proteins.divergence + rest, loss.kl_local["kl_div_back_pro"], VALUE)
    of_log = efficiency - generated["per_batch_efficiency"].log()
    agree(ours.proteins.efficiency, torch.where(measured, of_log, 0.0).sum(1), VALUE)
    agree(ours.proteins.leaning, torch.where(measured, leaning, 0.0).sum(1), VALUE)


@every_setting
@every_form
def test_assembled_as_the_peer_does_it_the_loss_is_the_peers(form: str, setting: str):
    two = twins(setting)
    agree_each(loss_as_the_peer(two, our_terms(two, form)), two.peers_forward()[2].loss, VALUE)


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "zinb"])
@every_form
def test_every_gradient_is_the_peers(form: str, setting: str):
    """But for zinb, whose losses we read off layers of their own."""
    two = twins(setting)
    two.peers_forward()[2].loss.backward()
    loss_as_the_peer(two, our_terms(two, form)).backward()
    shared = [pair for pair in pairs_of_totalvi(two.network, two.vae) if isinstance(pair.ours, torch.nn.Parameter)]
    largest = max(float(pair.peers.grad.abs().max()) for pair in shared)
    for pair in shared:
        agree(pair.ours.grad, pair.view(pair.peers.grad), GRADIENT, floor=1e-3 * largest)


@every_setting
def test_our_loss_is_made_of_these_terms(setting: str):
    two = twins(setting)
    terms = our_terms(two)
    torch.manual_seed(SEED)
    elbo = two.network.elbo(two.cells)
    agree_each(elbo.divergence, terms.divergence_of_z + terms.proteins.divergence, VALUE)
    assert (elbo.fixed_divergence == terms.divergence_of_library).all()
    agree_each(elbo.penalty, terms.proteins.efficiency + terms.proteins.leaning, VALUE)
    if not two.network.hyperparameters.use_observed_lib_size:  # else the peer's draws, which `terms` has, are others
        agree_each(elbo.reconstruction, terms.rna + terms.proteins.reconstruction, VALUE)


@every_way
@pytest.mark.usefixtures("as_the_peer")
def test_what_cells_express_is_the_peers(setting: str, panels: str):
    """Its foreground is that of one draw of the background, ours that of the mean; where it was measured."""
    two = twins(setting, panels)
    inferred, generated, _ = two.peers_forward()
    z, (rna, proteins), of_proteins = inferred["z"], two.network.parts().values(), generated["py_"]
    agree_each(rna.expression(z, two.cells), generated["px_"]["scale"], VALUE)
    probability = 1 - torch.sigmoid(of_proteins["mixing"])
    background = (of_proteins["back_alpha"] + of_proteins["back_beta"].square() / 2).exp()
    foreground = probability * background * of_proteins["fore_scale"]
    for ours, theirs in (
        (proteins.foreground_probability(z, two.cells), probability),
        (proteins.expression(z, two.cells), foreground),
        (proteins.expression_with_background(z, two.cells), foreground + (1 - probability) * background),
    ):
        agree_each(ours[two.measured], theirs[two.measured], VALUE)


def test_of_proteins_without_a_measurement_the_peer_asks_weights_that_saw_none_and_we_the_other_batches():
    two = twins("batch", "a batch without proteins")
    z, here = torch.randn(len(two.cells.batch), N_LATENT), two.cells.batch == 1
    found = two.network.protein_part.foreground_probability(z, two.cells)
    others = [
        two.network.protein_part._here(z, two.cells._replace(batch=torch.full_like(two.cells.batch, batch)))[0]
        for batch in (0, 2)
    ]
    mean = torch.stack([-each.background_logits for each in others]).mean(0).sigmoid()
    agree_each(found[here][:, 1:], mean[here][:, 1:], VALUE)
    agree_each(found[here][:, 0], others[0].foreground_probability[here][:, 0], VALUE)


def test_the_weight_of_a_draw_is_the_peers():
    """log p(x, hidden) - log q(hidden) of position, library and background. With a known library the peer draws one too."""
    two = twins("hidden library")
    torch.manual_seed(SEED)
    ours = two.network.log_importance_weight(two.network.encode(two.cells), two.cells)
    torch.manual_seed(SEED)
    agree_each(ours.mean(), torch.tensor(two.vae.marginal_ll(two.tensors, 1)), VALUE)


def test_the_adversary_is_the_peers():
    torch.manual_seed(3)
    ours, peers = Adversary(N_LATENT, N_BATCHES), Classifier(N_LATENT, 32, N_BATCHES, 2, logits=True)
    make_non_trivial(peers)
    for pair in (
        *_body("body", ours.body, peers.classifier[0]),
        *_linear("logits", ours.logits, peers.classifier[1]),
    ):
        with torch.no_grad():
            pair.ours.copy_(pair.view(pair.peers))
    plan = AdversarialTrainingPlan.__new__(AdversarialTrainingPlan)
    torch.nn.Module.__init__(plan)
    plan.adversarial_classifier, plan.n_output_classifier = peers.eval(), N_BATCHES
    z, batch = torch.randn(20, N_LATENT), torch.tensor(np.arange(20) % N_BATCHES)
    for name, of_true in (("loss", True), ("fool", False)):
        theirs = plan.loss_adversarial_classifier(z, batch[:, None], of_true)
        agree_each(getattr(ours.eval(), name)(z, batch), theirs, VALUE)
