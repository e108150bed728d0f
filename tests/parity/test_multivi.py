"""MultiVI against scvi-tools: its weights copied in, the same minibatch, the same noise.

What differs on purpose is pinned here, by functions that say what the peer does instead: encoders see log counts and
what is open where the peer's see counts, which is got round by handing the peer's encoders what ours see; the variance
of the mixed posterior; and both penalties. The smallest variance of a posterior is switched off.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from scvi_pp._backend import encoders, kernels, posterior_mixture, priors
from scvi_pp._backend.objectives import Elbo
from tests.parity.agreement import FORMS, GRADIENT, agree, agree_each, every_combination
from tests.parity.multivi_weights import pairs_of_multivi

pytest.importorskip("scvi")

from tests.parity.multivi_twins import KL_WEIGHT, MEASURED, N_CELLS, SETTINGS, any_measured, twins

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors:UserWarning")]

VALUE = 1e-5  # relative

every_setting = pytest.mark.parametrize("setting", SETTINGS)
# every setting on the mosaic with the form of training, and every form and whatever else was measured with those settings
# that stand for the kernels; at night all of them together
STAND_FOR_KERNELS = ("batch, categories and numbers", "nb", "poisson")


def at_least(form: str, setting: str, measured: str = "mosaic") -> bool:
    return (form, measured) == ("auto on rows", "mosaic") or setting in STAND_FOR_KERNELS


every_form = pytest.mark.parametrize(("form", "setting"), every_combination((FORMS, SETTINGS), at_least=at_least))
every_way = pytest.mark.parametrize(
    ("form", "setting", "measured"),
    every_combination(
        (FORMS, SETTINGS, MEASURED),
        at_least=at_least,
        at_most=lambda form, _, measured: form == "auto on rows" or measured == "mosaic",
    ),
)


# ---- what the peer does instead


def peers_variance(variances: Any, weights: Tensor) -> Tensor:
    """Roots of weights times variances: more than any of them."""
    roots = torch.where(weights > 0, weights, 1.0).sqrt() * (weights > 0)
    return sum(root * v for v, root in zip(variances, roots.split(1, dim=1), strict=True))


def peers_jeffreys(p: Normal, q: Normal) -> Tensor:
    """The root is taken twice: Gaussians whose standard deviation is the fourth root of the variance."""
    p, q = Normal(p.loc, p.scale.sqrt()), Normal(q.loc, q.scale.sqrt())
    return priors.divergence(p, q) + priors.divergence(q, p)


def peers_mmd(penalty: Any, posteriors: Any, present: Tensor, ours: Any = posterior_mixture.disagreement) -> Any:
    """The sum over the cells of the minibatch, for each of them."""
    found = ours(penalty, posteriors, present)
    return found.sum().expand_as(found) if penalty == "MMD" else found


def loss_as_the_peer(elbo: Elbo) -> Tensor:
    """The penalty has its full weight from the first step on; ours grows with that of the KL term."""
    loss = elbo.loss(KL_WEIGHT)
    return loss if elbo.penalty is None else loss + (1 - KL_WEIGHT) * elbo.penalty.mean()


@pytest.fixture
def without_smallest_variance(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoders, "SMALLEST_VARIANCE", 0.0)


@pytest.fixture
def as_the_peer(monkeypatch: pytest.MonkeyPatch, without_smallest_variance: None):
    monkeypatch.setattr(posterior_mixture, "mixed_variance", peers_variance)
    monkeypatch.setattr(posterior_mixture, "jeffreys", peers_jeffreys)
    monkeypatch.setattr(posterior_mixture, "disagreement", peers_mmd)


# ---- before anything differs


@every_form
@pytest.mark.usefixtures("without_smallest_variance")
def test_what_each_modality_says_and_their_mean_are_the_peers(form: str, setting: str):
    two = twins(setting)
    inferred, _, _ = two.peers_forward()
    with kernels.use("reference" if form == "reference" else "auto"):
        posterior = two.network.encode(two.as_seen(form))
    for modality, short in (("expression", "expr"), ("accessibility", "acc"), ("protein", "pro")):
        if modality in posterior.of_modality:
            agree(posterior.of_modality[modality].loc, inferred[f"qzm_{short}"], VALUE)
            agree_each(posterior.of_modality[modality].variance, inferred[f"qzv_{short}"], VALUE)
    anything = posterior.weights.any(1)  # the peer's mean of nothing means nothing
    agree(posterior.q_z.loc[anything], inferred["qz_m"][anything], VALUE)
    if "expression" in posterior.exposures and not two.network.hyperparameters.has_expression_size_factor:
        agree(posterior.exposures["expression"], inferred["libsize_expr"], VALUE)
    if "accessibility" in posterior.exposures:
        here = two.cells.present[:, 1]
        agree_each(posterior.exposures["accessibility"].exp()[here], inferred["libsize_acc"][here], VALUE)


@every_way
@pytest.mark.usefixtures("without_smallest_variance")
def test_at_the_peers_position_every_reconstruction_is_the_peers(form: str, setting: str, measured: str):
    if not any_measured(setting, measured):
        pytest.skip("nothing that is measured is modelled")
    two = twins(setting, measured)
    inferred, _, loss = two.peers_forward()
    two.seed(4)
    with kernels.use("reference" if form == "reference" else "auto"):
        cells = two.as_seen(form)
        found = two.network.reconstruction(inferred["z"], two.network.encode(cells), cells)
    for modality, likelihood in found.items():
        agree_each(-likelihood, loss.reconstruction_loss[f"reconstruction_loss_{modality}"], VALUE)


@every_setting
@pytest.mark.usefixtures("without_smallest_variance")
def test_denoised_values_are_the_peers(setting: str):
    two = twins(setting)
    inferred, generated, _ = two.peers_forward()
    z, parts = inferred["z"], two.network.parts()
    if "expression" in parts:
        agree_each(parts["expression"].expression(z, two.cells), generated["px_scale"], VALUE)
    if "accessibility" in parts:
        agree_each(parts["accessibility"].expression(z, two.cells), generated["p"], VALUE)
    if "protein" in parts:
        probability = parts["protein"].foreground_probability(z, two.cells)
        agree_each(probability, 1 - torch.sigmoid(generated["py_"]["mixing"]), VALUE)


# ---- with the peer's variance and penalties


@every_way
@pytest.mark.usefixtures("as_the_peer")
def test_with_the_peers_mixture_every_term_of_the_loss_is_the_peers(form: str, setting: str, measured: str):
    if not any_measured(setting, measured):
        pytest.skip("nothing that is measured is modelled")
    two = twins(setting, measured)
    inferred, _, loss = two.peers_forward()
    two.seed()
    with kernels.use("reference" if form == "reference" else "auto"):
        elbo, z = two.network.elbo_and_position(two.as_seen(form))
    agree(z, inferred["z"], VALUE)
    agree_each(-elbo.reconstruction, sum(loss.reconstruction_loss.values()), VALUE)
    agree_each(elbo.divergence, loss.kl_local["kl_divergence_z"], VALUE)
    assert not elbo.fixed_divergence.any()
    paired = loss.kl_local["kl_divergence_paired"]
    if elbo.penalty is None:
        assert isinstance(paired, int)
    else:
        agree_each(elbo.penalty, paired, VALUE)
    agree_each(loss_as_the_peer(elbo), loss.loss, VALUE)


@every_way
@pytest.mark.usefixtures("as_the_peer")
def test_with_the_peers_mixture_every_gradient_is_the_peers(form: str, setting: str, measured: str):
    if not any_measured(setting, measured):
        pytest.skip("nothing that is measured is modelled")
    two = twins(setting, measured)
    two.peers_forward()[2].loss.backward()
    two.seed()
    with kernels.use("reference" if form == "reference" else "auto"):
        loss_as_the_peer(two.network.elbo(two.as_seen(form))).backward()

    shared = [pair for pair in pairs_of_multivi(two.network, two.vae) if isinstance(pair.ours, torch.nn.Parameter)]
    largest = max(float(_gradient(pair.peers).abs().max()) for pair in shared)
    for pair in shared:
        agree(_gradient(pair.ours), pair.view(_gradient(pair.peers)), GRADIENT, floor=1e-3 * largest)
    if two.network.weights.own is not None:
        agree(two.network.weights.shared.grad, two.network.weights.own.grad.sum(0), GRADIENT)


# ---- what differs


@pytest.mark.usefixtures("without_smallest_variance")
def test_the_posterior_of_two_that_agree_is_surer_than_each_and_the_peers_less_sure():
    two = twins("batch", "all")
    inferred, _, _ = two.peers_forward()
    variances = [inferred[f"qzv_{short}"] for short in ("expr", "acc", "pro")]
    agree_each(inferred["qz_v"], sum(variances) / 3**0.5, VALUE)
    agree_each(two.network.encode(two.cells).q_z.variance, sum(variances) / 9, VALUE)


@pytest.mark.usefixtures("without_smallest_variance")
def test_where_one_modality_is_measured_the_posterior_is_the_peers():
    two = twins("batch", "unpaired")
    inferred, _, _ = two.peers_forward()
    agree_each(two.network.encode(two.cells).q_z.variance, inferred["qz_v"], VALUE)


@pytest.mark.usefixtures("without_smallest_variance")
def test_our_jeffreys_penalty_is_that_of_the_posteriors_and_the_peers_of_wider_or_narrower_ones():
    two = twins("Jeffreys", "all")
    inferred, _, loss = two.peers_forward()
    wrong = _sum_over_pairs(inferred, lambda variance: variance.sqrt())
    right = _sum_over_pairs(inferred, lambda variance: variance)
    agree_each(loss.kl_local["kl_divergence_paired"], wrong, VALUE)
    agree_each(two.network.elbo(two.cells).penalty, right, VALUE)


@pytest.mark.usefixtures("without_smallest_variance")
def test_the_peers_mmd_is_the_sum_of_ours_over_the_minibatch():
    two = twins("MMD")
    _, _, loss = two.peers_forward()
    ours = two.network.elbo(two.cells).penalty
    agree_each(ours.sum().expand(N_CELLS), loss.kl_local["kl_divergence_paired"], VALUE)
    assert len(ours.unique()) > 5


def test_a_cell_that_was_measured_and_has_no_counts_counts_with_us_and_not_with_the_peer():
    two = twins("batch", "all")
    for tensor in (two.cells.accessibility, two.tensors["atac"]):
        tensor[3] = 0
    _, _, loss = two.peers_forward()
    assert loss.reconstruction_loss["reconstruction_loss_accessibility"][3] == 0
    posterior = two.network.encode(two.cells)
    found = two.network.reconstruction(posterior.q_z.loc, posterior, two.cells)
    assert found["accessibility"][3] < -1


def _gradient(parameter: Tensor) -> Tensor:
    """Of what takes no part in a minibatch, none or zero."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _sum_over_pairs(inferred: dict[str, Tensor], of: Any) -> Tensor:
    qs = [Normal(inferred[f"qzm_{s}"], of(inferred[f"qzv_{s}"]).sqrt()) for s in ("expr", "acc", "pro")]
    kl = torch.distributions.kl_divergence
    return sum((kl(a, b) + kl(b, a)).sum(1) for a, b in ((qs[0], qs[1]), (qs[0], qs[2]), (qs[1], qs[2])))
