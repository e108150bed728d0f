"""MultiVI term by term: what was measured counts, what was not does not, and modalities come together."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend import kernels
from scvi_pp._backend.fit import fit
from scvi_pp._backend.measured import MODALITIES
from scvi_pp._backend.models import restored
from scvi_pp._backend.models.multivi import Hyperparameters, Network
from scvi_pp._backend.query import Posterior
from tests.backend import mosaic, small
from tests.studies import Judge, seeds

LIKELIHOODS = ("zinb", "nb", "poisson")
DISPERSIONS = ("gene", "gene-batch", "gene-cell")
FIELDS = dict(zip(MODALITIES, ("expression_part", "accessibility_part", "protein_part"), strict=True))


def started(inputs: Any, **options: Any) -> Network:
    network = mosaic.network(inputs, **options)
    network.start_from(mosaic.cells(inputs), torch.arange(len(inputs.batch)))
    return network


def reconstructions(network: Network, cells: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        posterior = network.encode(cells)
        return network.reconstruction(posterior.q_z.loc, posterior, cells)


def rows(inputs: Any, index: Any) -> Any:
    return mosaic.cells(inputs).minibatch(torch.as_tensor(index))


# ---- what was measured


def test_what_was_not_measured_adds_nothing_and_what_was_does():
    inputs = mosaic.arrays()
    found = reconstructions(started(inputs), mosaic.everything(inputs))
    for column, modality in enumerate(MODALITIES):
        measured = inputs.present[:, column]
        assert (found[modality][~measured] == 0).all()
        assert (found[modality][measured] < 0).all()


@pytest.mark.parametrize("form", ["auto", "analytic", "reference"])
def test_a_cell_is_worth_the_same_whatever_else_is_in_the_minibatch(form: str):
    """The rows of a modality are evaluated by themselves on a CPU; where all rows have it, as they are."""
    inputs = mosaic.arrays()
    network = started(inputs).eval()
    with kernels.use(form):
        whole = reconstructions(network, mosaic.everything(inputs))
        for column, modality in enumerate(MODALITIES[:2]):  # the background of proteins is drawn
            index = np.flatnonzero(inputs.present[:, column])
            alone = reconstructions(network, rows(inputs, index))[modality]
            torch.testing.assert_close(alone, whole[modality][index])


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_minibatch_without_a_modality_has_finite_terms_and_leaves_its_decoder_alone(modality: str):
    inputs = mosaic.arrays()
    network = started(inputs).train()
    cells = rows(inputs, np.flatnonzero(~inputs.present[:, MODALITIES.index(modality)]))
    elbo = network.elbo(cells)
    assert torch.isfinite(elbo.bound).all()
    elbo.loss(1.0).backward()
    moved = {name: p.grad for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(torch.isfinite(gradient).all() for gradient in moved.values())
    assert not [name for name in moved if name.startswith(FIELDS[modality])]
    assert moved


def test_a_cell_that_was_measured_and_is_empty_is_not_a_cell_that_was_not():
    inputs = mosaic.arrays(kinds=mosaic.KINDS[:1])
    emptied = {}
    for modality in MODALITIES:
        counts = getattr(inputs, modality).toarray()
        counts[5] = 0
        emptied[modality] = csr_matrix(counts)
    inputs = inputs._replace(**emptied)
    network = started(inputs).eval()
    cells = mosaic.everything(inputs)
    unmeasured = cells._replace(present=cells.present & (torch.arange(70) != 5)[:, None])
    for modality in MODALITIES:
        assert reconstructions(network, cells)[modality][5] < 0
        assert reconstructions(network, unmeasured)[modality][5] == 0
    assert network.encode(cells).q_z.loc[5].any()
    assert not network.encode(unmeasured).q_z.loc[5].any()


def test_counts_of_what_was_not_measured_are_not_looked_at():
    inputs = mosaic.arrays()
    cells = mosaic.everything(inputs)
    noisy = cells._replace(
        **{
            modality: torch.where(cells.present[:, [column]], getattr(cells, modality).dense(), torch.tensor(3.0))
            for column, modality in enumerate(MODALITIES)
        }
    )
    network = started(inputs).eval()
    found, expected = network.encode(noisy), network.encode(cells)
    torch.testing.assert_close(found.q_z.loc, expected.q_z.loc)
    torch.testing.assert_close(found.q_z.scale, expected.q_z.scale)
    ours, theirs = reconstructions(network, noisy), reconstructions(network, cells)
    for modality in MODALITIES:
        torch.testing.assert_close(ours[modality], theirs[modality], rtol=1e-5, atol=1e-4)


def test_of_a_cell_without_anything_the_bound_is_nothing():
    inputs = mosaic.arrays(kinds=np.array([(1, 1, 1), (0, 0, 0)], dtype=bool))
    elbo = started(inputs).elbo(mosaic.everything(inputs))
    assert (elbo.bound[1::2] == 0).all()
    assert (elbo.penalty[1::2] == 0).all()
    elbo.loss(1.0).backward()


def test_modalities_disagree_only_where_two_were_measured():
    inputs = mosaic.arrays()
    penalty = started(inputs).elbo(mosaic.everything(inputs)).penalty
    paired = inputs.present.sum(1) > 1
    assert (penalty[paired] > 0).all()
    assert (penalty[~paired] == 0).all()


# ---- gradients


def test_the_regions_of_a_step_are_gone_through_once(monkeypatch: pytest.MonkeyPatch):
    """Gradients by the mean over all cells are ready before anyone asks, though some cells have no chromatin."""
    from scvi_pp._backend.kernels.bernoulli_heads import cpu

    taken = []
    whole = cpu.Pass
    monkeypatch.setattr(
        cpu, "Pass", lambda *arguments: taken.append(len(arguments[0].places.starts) - 1) or whole(*arguments)
    )
    inputs = mosaic.arrays()
    network = started(inputs).train()
    with kernels.use("auto"):
        network.elbo(mosaic.everything(inputs)).loss(0.3).backward()
    assert taken == [inputs.present[:, 1].sum()]


@pytest.mark.parametrize("penalty", ["Jeffreys", "MMD", "none"])
@pytest.mark.parametrize("weights", ["equal", "universal", "cell"])
def test_every_parameter_has_a_finite_gradient(weights: str, penalty: str):
    inputs = mosaic.arrays(n_levels=(2, 3), n_numbers=1)
    network = started(inputs, modality_weights=weights, modality_penalty=penalty, encode_covariates=True).train()
    _check_gradients(network, inputs)


@pytest.mark.parametrize("dispersion", DISPERSIONS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("size_factors", [False, True])
def test_every_likelihood_and_dispersion_has_finite_gradients(likelihood: str, dispersion: str, size_factors: bool):
    inputs = mosaic.arrays(size_factors=size_factors)
    of_protein = "protein-batch" if dispersion == "gene-batch" else "protein"
    network = started(inputs, gene_likelihood=likelihood, dispersion=dispersion, protein_dispersion=of_protein).train()
    _check_gradients(network, inputs)


@pytest.mark.parametrize("sizes", [(20, 30, 0), (20, 0, 6), (0, 30, 6), (20, 0, 0), (0, 30, 0), (0, 0, 6)])
def test_any_set_of_modalities_is_a_model(sizes: tuple[int, int, int]):
    inputs = mosaic.arrays(sizes=sizes)
    network = started(inputs, modality_weights="universal").train()
    assert tuple(network.parts()) == tuple(m for m, n in zip(MODALITIES, sizes, strict=True) if n)
    _check_gradients(network, inputs)


def _check_gradients(network: Network, inputs: Any) -> None:
    elbo = network.elbo(mosaic.everything(inputs))
    assert torch.isfinite(elbo.bound).all()
    elbo.loss(1.0).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


# ---- options


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
def test_dispersion_follows_what_it_is_said_to_follow(dispersion: str):
    inputs = mosaic.arrays()
    network = mosaic.network(inputs, dispersion=dispersion, gene_likelihood="nb", protein_dispersion="protein-batch")
    cells = mosaic.everything(inputs)
    z = torch.randn(70, 3) if dispersion == "gene-cell" else torch.zeros(70, 3)
    with torch.no_grad():
        theta = network.decode(z, torch.zeros(70, 1), cells).parameters()["dispersion"]
        phi = network.parts()["protein"].decode(z, torch.zeros(70, 1), cells).parameters()["dispersion"]
    assert len(theta.unique(dim=0)) == {"gene": 1, "gene-batch": 2, "gene-cell": 70}[dispersion]
    assert len(phi.unique(dim=0)) == 2


def test_size_factors_are_what_they_are_given_as():
    inputs = mosaic.arrays(size_factors=True)
    network = mosaic.network(inputs)
    exposures = network.encode(mosaic.everything(inputs)).exposures
    for column, modality in enumerate(MODALITIES[:2]):
        measured = inputs.present[:, column]
        expected = getattr(inputs, f"{modality}_size_factor")
        np.testing.assert_allclose(exposures[modality].exp()[measured, 0], expected[measured], rtol=1e-5)
    assert not any("library" in name or "cell_factor" in name for name in network.state_dict())


def test_a_learned_library_begins_at_the_mean_total_and_a_learned_factor_is_between_zero_and_one():
    inputs = mosaic.arrays()
    with torch.no_grad():
        exposures = started(inputs).eval().encode(mosaic.everything(inputs)).exposures
    measured = inputs.present[:, 0]
    log_total = np.log(np.asarray(inputs.expression.sum(1)).ravel()[measured])
    assert float(exposures["expression"][measured].mean()) == pytest.approx(log_total.mean(), abs=0.7)
    assert (exposures["accessibility"] < 0).all()


def test_the_start_is_the_mean_of_what_was_measured():
    inputs = mosaic.arrays(210)
    network = started(inputs)
    totals = np.asarray(inputs.expression.sum(0)).ravel()
    share = network.expression_part.decoder.scale.bias.detach().exp()
    np.testing.assert_allclose(share, totals / totals.sum(), rtol=1e-5)
    is_open = np.asarray((inputs.accessibility > 0).sum(0)).ravel() / inputs.present[:, 1].sum()
    bias = network.accessibility_part.decoder.logits.bias.detach()
    np.testing.assert_allclose(torch.sigmoid(bias), np.clip(4 * is_open, 1e-5, 0.95), rtol=1e-4)


def test_a_start_without_a_cell_of_a_modality_is_a_start():
    inputs = mosaic.arrays()
    rna_alone = torch.tensor(np.flatnonzero((inputs.present == [True, False, False]).all(1)))
    network = mosaic.network(inputs)
    network.start_from(mosaic.cells(inputs), rna_alone)
    assert torch.isfinite(network.elbo(mosaic.everything(inputs)).bound).all()


def test_a_position_on_the_simplex_sums_to_one():
    network = mosaic.network(mosaic.arrays(), latent_distribution="ln")
    torch.testing.assert_close(network.latent(torch.randn(5, 3)).sum(1), torch.ones(5))


def test_hyperparameters_come_back_from_json():
    hp = mosaic.network(mosaic.arrays(n_levels=(2, 3)), dispersion="gene-batch").hyperparameters
    assert restored(Hyperparameters, json.loads(json.dumps(asdict(hp)))) == hp


def test_importance_weights_average_to_the_bound_in_the_log():
    inputs = mosaic.arrays(21)
    network, cells = started(inputs).eval(), mosaic.everything(inputs)
    n_draws = 50
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        posterior = network.encode(cells)
        weights = torch.stack([network.log_importance_weight(posterior, cells) for _ in range(n_draws)])
        bounds = torch.stack([network.elbo(cells).bound for _ in range(n_draws)])
    error = (weights.var(0) / n_draws + bounds.var(0) / n_draws).sqrt()
    assert ((weights.mean(0) - bounds.mean(0)).abs() < 5 * error).all()


# ---- training


@pytest.mark.parametrize("penalty", ["Jeffreys", "none"])
def test_training_brings_the_modalities_of_a_cell_together(penalty: str, judge: Judge):
    """Half of the cells have both; the others find their group among those of the other kind."""
    n_cells, kinds = 320, np.array([(1, 1, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], dtype=bool)
    nearer, right = [], []
    for seed in seeds(2):
        inputs = mosaic.arrays(n_cells, (40, 60, 0), kinds=kinds, contrast=1.5, seed=seed)
        cells, group = mosaic.cells(inputs), mosaic.groups(n_cells, seed)
        network = mosaic.network(inputs, modality_penalty=penalty, n_hidden=32, seed=seed)
        paired = inputs.present.sum(1) == 2
        before = _distance_to_itself(network, cells, paired)
        options = {"max_epochs": 50, "batch_size": 64, "learning_rate": 1e-2, "weight_decay": 1e-4, "kl_warmup": 0.5}
        outcome = fit(network, cells, small.plan(n_cells, seed=seed, **options))
        assert outcome.history["elbo_train"][-1] > outcome.history["elbo_train"][0]
        nearer.append(_distance_to_itself(network, cells, paired) / before)
        latent = Posterior(network, cells).latent_mean()
        alone = [(inputs.present == kind).all(1) for kind in ([1, 0, 0], [0, 1, 0])]
        right.append(min(_right_group(latent, group, *pair) for pair in (alone, alone[::-1])))
    judge(f"multivi, penalty {penalty}: distance of modalities of a cell, over that before", nearer, below=0.7)
    judge(f"multivi, penalty {penalty}: share of unpaired cells in their group", right, above=0.8)


def _distance_to_itself(network: Network, cells: Any, paired: np.ndarray) -> float:
    """Between what two modalities say of a cell, as a share of the distance between what they say of any two."""
    rna, chromatin = (
        Posterior(network.about(modality, modality), cells).latent_mean()[paired]
        for modality in ("expression", "accessibility")
    )
    distance = np.linalg.norm(rna[:, None] - chromatin[None], axis=2)
    return float(np.diag(distance).mean() / distance.mean())


def _right_group(latent: np.ndarray, group: np.ndarray, of: np.ndarray, among: np.ndarray) -> float:
    """How many of some cells have the group that most of their ten nearest neighbours among others have."""
    distance = np.linalg.norm(latent[of][:, None] - latent[among][None], axis=2)
    nearest = group[among][np.argsort(distance, axis=1)[:, :10]]
    votes = np.stack([(nearest == each).sum(1) for each in range(3)], axis=1)
    return float((votes.argmax(1) == group[of]).mean())
