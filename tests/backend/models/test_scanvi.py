"""scANVI: the bound with and without a label, the prior that labels make, and how often labelled cells come."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend.answering import Labelling, Structured
from scvi_pp._backend.fit import fit
from scvi_pp._backend.models import restored
from scvi_pp._backend.models.scanvi import SURELY_NOT, Hyperparameters, Inputs, Network, build, repeats
from scvi_pp._backend.query import Posterior
from scvi_pp._backend.surgery import mapping
from tests.backend import small
from tests.studies import Judge, seeds

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"n_batches": 1}, {}),
    "covariates": ({"n_levels": (3, 1, 2), "n_numbers": 2}, {"encode_covariates": True, "n_layers": 2}),
    "linear classifier": ({}, {"linear_classifier": True}),
    "size factor": ({"size_factor": True}, {"gene_likelihood": "nb"}),
    "gene-cell": ({}, {"dispersion": "gene-cell"}),
    "latent library": ({}, {"use_observed_lib_size": False}),
    "ln": ({}, {"latent_distribution": "ln"}),
    "embedding": ({}, {"batch_representation": "embedding"}),
}


def made(name: str = "plain", **more: Any) -> tuple[Network, Inputs[Any]]:
    data, options = VARIANTS[name]
    found = small.labelled(**data)
    return small.scanvi_network(found, **options, **more).eval(), small.cells(found).minibatch(torch.arange(60))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bound_is_below_the_likelihood_by_importance_sampling(name: str):
    network, cells = made(name)
    with torch.no_grad():
        torch.manual_seed(0)
        bounds = torch.stack([network.elbo(cells).bound for _ in range(200)]).mean(0)
        weights = [network.log_importance_weight(network.encode(cells), cells) for _ in range(200)]
    likelihood = torch.stack(weights).logsumexp(0) - math.log(200)
    assert (likelihood > bounds).all()


def test_what_is_not_asked_is_nothing_and_changes_nothing_else():
    """Of a labelled cell only its own label is: the bound with shares of one and zero is the same."""
    network, cells = made()
    n_labels, posterior = network.hyperparameters.n_labels, network.encode(cells)
    position, is_labelled = posterior.q_z.loc, cells.labels < n_labels
    own = torch.nn.functional.one_hot(cells.labels.clamp(max=n_labels - 1), n_labels).bool()
    possible = own | ~is_labelled[:, None]
    logits = torch.where(possible, network.classifier(position), SURELY_NOT)
    drawn = torch.randn(network.hyperparameters.n_latent, generator=torch.Generator().manual_seed(2))
    all_of_them, some = (network.position_of_label(position, drawn, asked) for asked in (None, possible))
    for whole, part in zip(all_of_them, some, strict=True):
        torch.testing.assert_close(part, torch.where(possible, whole, 0.0))
    shares = logits.softmax(1)
    torch.testing.assert_close((shares * some.log_p_position).sum(1), (shares * all_of_them.log_p_position).sum(1))


def test_but_on_a_cpu_no_shape_depends_on_a_value():
    """A CUDA graph could not hold it; the meta device has shapes and no values."""
    network, cells = made()
    part, n_latent = network.position_of_label.to("meta"), network.hyperparameters.n_latent
    possible = torch.ones(60, network.hyperparameters.n_labels, dtype=torch.bool, device="meta")
    found = part(torch.zeros(60, n_latent, device="meta"), torch.zeros(n_latent, device="meta"), possible)
    assert all(each.shape == possible.shape for each in found)


def test_in_training_labelled_cells_are_asked_for_their_label_alone(monkeypatch: pytest.MonkeyPatch):
    network, cells = made()
    network.start_from(small.cells(small.labelled()), torch.arange(60))
    seen: list[int] = []
    forward = network.position_of_label.encoder.forward
    monkeypatch.setattr(
        network.position_of_label.encoder, "forward", lambda x, codes: (seen.append(len(x)), forward(x, codes))[1]
    )
    n_labels = network.hyperparameters.n_labels
    n_labelled = int((cells.labels < n_labels).sum())
    network.train().elbo(cells)
    network.eval().elbo(cells)
    assert seen == [n_labelled + n_labels * (60 - n_labelled), n_labels * 60]


@pytest.mark.parametrize("name", VARIANTS)
def test_labels_are_not_looked_at_but_in_training(name: str):
    network, cells = made(name)
    without = cells._replace(labels=torch.full((60,), 3))
    torch.manual_seed(1)
    of_labelled = network.elbo(cells)
    torch.manual_seed(1)
    of_others = network.elbo(without)
    torch.testing.assert_close(of_labelled.bound, of_others.bound)
    assert of_labelled.supervision is not None and of_others.supervision is not None
    assert (of_labelled.supervision > 0).equal(cells.labels < 3)
    assert (of_others.supervision == 0).all()


def test_the_bound_of_a_cell_is_the_mean_over_labels_less_what_the_classifier_leaves_open():
    """sum_k pi_k (bound with label k) + entropy(pi) = bound without one."""
    network, cells = made()
    posterior = network.encode(cells)
    position = posterior.q_z.loc
    logits = network.classifier(position)

    def bound(logits: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        terms = network.terms(position, logits, posterior, cells)
        return terms.reconstruction - terms.of_position - terms.of_rest - terms.of_label - terms.of_library

    of_label = torch.stack([bound(torch.eye(3)[[k]].expand(60, 3) * 1e4) for k in range(3)], dim=1)
    shares = logits.softmax(1)
    entropy = -(shares * shares.log()).sum(1)
    torch.testing.assert_close(bound(logits), (shares * of_label).sum(1) + entropy, rtol=1e-5, atol=1e-4)


def test_a_classifier_that_is_sure_leaves_gradients_finite():
    network, cells = made()
    network.train()
    with torch.no_grad():
        network.classifier[-1].weight.mul_(1e6)  # type: ignore[index]
    network.elbo(cells).loss(1.0).backward()
    assert all(torch.isfinite(each.grad).all() for each in network.parameters() if each.grad is not None)


def test_few_labels_hardly_move_the_encoder_by_the_classifier():
    """Its gradient there is in proportion to its reach, which goes with the share of cells that have a label."""
    found = {}
    for share in (0.0, 0.1, 1.0):
        network, cells = made(classification_weight=1e6)
        network.train()
        network.get_buffer("classifier_reach").fill_(share)
        network.get_buffer("label_weight")[:-1] = 1
        torch.manual_seed(0)
        network.elbo(cells)._replace(reconstruction=torch.zeros(60), divergence=torch.zeros(60)).loss(1.0).backward()
        weight = network.scvi.encoder.mean.weight.grad
        found[share] = 0.0 if weight is None else float(weight.abs().sum())
        assert float(network.classifier[-1].weight.grad.abs().sum()) > 0  # type: ignore[index, union-attr]
    assert found[0.0] == 0
    assert found[0.1] == pytest.approx(0.1 * found[1.0], rel=1e-3)


# ---- the prior


def test_the_prior_is_a_mixture_whose_draws_and_density_agree(judge: Judge):
    """E_p[q(z) / p(z)] = 1 for any density q; the density is by eight draws of u for each label."""
    means = []
    for seed in seeds(8):
        network, _ = made(seed=seed)
        assert isinstance(network, Structured) and isinstance(network, Labelling)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = network.prior_position(torch.randn(5_000, 3))
            q = torch.distributions.Normal(drawn.mean(0), drawn.std(0) * 0.7)
            ratio = (q.log_prob(drawn).sum(1) - network.log_prior(drawn)).exp()
        means.append(float(ratio.mean()))
    judge("scanvi: mean ratio of any density to the prior", means, above=0.85, below=1.2)


def test_the_density_at_given_noise_is_the_same_in_every_block():
    network, cells = made()
    position = network.encode(cells).q_z.loc
    with torch.no_grad():
        parts = torch.cat([network.log_prior(part) for part in position.split(7)])
    torch.testing.assert_close(parts, network.log_prior(position), rtol=1e-5, atol=1e-5)


# ---- rows


def test_labelled_cells_come_again_until_they_are_a_quarter():
    hp = made()[0].hyperparameters
    labels = np.array([0] * 8 + [1] * 4 + [3] * 388)
    times = repeats(labels, hp)
    assert set(times[labels == 3]) == {1}
    n_labelled = times[labels < 3].sum()
    assert n_labelled / (n_labelled + 388) == pytest.approx(0.25, abs=0.01)
    assert times[labels == 0][0] == times[labels == 1][0] > 1


def test_labels_that_are_many_come_once_and_rare_ones_as_often_as_wanted():
    hp = made()[0].hyperparameters
    labels = np.array([0] * 300 + [1] * 10 + [3] * 50)
    assert set(repeats(labels, hp)) == {1}
    balanced = repeats(labels, replace(hp, n_samples_per_label=10))
    assert set(balanced[labels == 0]) == {1}
    assert balanced[labels == 1][0] == 16  # 310 rows of labels, half of them of each


@pytest.mark.parametrize("most", [None, 3])
def test_each_cell_counts_once_for_the_bound_and_each_label_as_wanted(most: int | None):
    inputs = small.labelled()
    network, cells = small.scanvi_network(inputs, n_samples_per_label=most), small.cells(inputs)
    times = np.where(inputs.labels == 1, 4, np.where(inputs.labels == 3, 1, 2))
    rows = torch.tensor(np.repeat(np.arange(60), times))
    network.start_from(cells, rows)
    labels = torch.tensor(inputs.labels)[rows]
    bound, label = network.get_buffer("bound_weight")[labels], network.get_buffer("label_weight")[labels]
    assert float(bound.mean()) == pytest.approx(1)
    of_cell = torch.zeros(60).index_add(0, rows, bound)
    torch.testing.assert_close(of_cell, of_cell[0].expand(60))
    of_label = torch.zeros(4).index_add(0, labels, label) / len(rows)
    n_cells = torch.bincount(torch.tensor(inputs.labels), minlength=4)[:3].clamp(max=most or 60)
    torch.testing.assert_close(of_label, torch.cat([n_cells / n_cells.sum(), torch.zeros(1)]))
    assert float(network.get_buffer("classifier_reach")) == pytest.approx((40 / 60) ** 2)


def test_a_fitted_scvi_is_taken_over_and_kept_by_the_start():
    inputs = small.labelled()
    below = small.network(inputs._replace(labels=np.zeros(60, dtype=np.int64)), n_labels=1, seed=4)
    network = small.scanvi_network(inputs)
    network.begin_with(below)
    network.start_from(small.cells(inputs), torch.arange(60))
    for name, tensor in below.state_dict().items():
        assert torch.equal(network.scvi.state_dict()[name], tensor)


def test_training_finds_labels_and_the_best_epoch_is_by_them_too(judge: Judge):
    right = []
    for seed in seeds(3):
        inputs = small.labelled(seed=seed)
        kind = np.random.default_rng(seed).integers(2, size=60)
        counts = inputs.counts.toarray() + 20 * kind[:, None] * (np.arange(20) < 5)
        inputs = inputs._replace(counts=type(inputs.counts)(counts), labels=np.where(np.arange(60) % 3 == 0, 2, kind))
        network, cells = small.scanvi_network(inputs, seed=seed), small.cells(inputs)
        plan = small.plan(max_epochs=40, learning_rate=1e-2, groups=inputs.labels, seed=seed)
        outcome = fit(network, cells, plan)
        found = Posterior(network, cells).latent_mean()
        with torch.no_grad():
            right.append((network.label_logits(torch.tensor(found)).argmax(1).numpy() == kind).mean())
        score = outcome.history["elbo_validation"] - outcome.history["supervision_validation"]
        assert outcome.best_epoch == 1 + int(score.argmax())
    judge("scanvi, 60 cells: accuracy of labels", right, above=0.9)


# ---- as every model


@pytest.mark.parametrize("name", VARIANTS)
def test_a_query_with_new_batches_leaves_what_is_known(name: str):
    network, cells = made(name)
    hp = replace(network.hyperparameters, n_batches=4)
    grown = mapping(network, build(hp), "new").finished().eval()
    posterior, before = grown.encode(cells), network.encode(cells)  # type: ignore[operator]
    assert torch.equal(posterior.q_z.loc, before.q_z.loc)
    assert torch.equal(grown.label_logits(before.q_z.loc), network.label_logits(before.q_z.loc))  # type: ignore[operator]


def test_hyperparameters_come_back_from_json():
    hp = made("covariates")[0].hyperparameters
    assert restored(Hyperparameters, {**vars(hp), "n_levels": list(hp.n_levels)}) == hp
