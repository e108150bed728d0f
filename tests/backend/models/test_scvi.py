"""The generative story of scVI, term by term, and where training begins."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend import models
from scvi_pp._backend.device import private_random
from scvi_pp._backend.models import restored
from scvi_pp._backend.models.scvi import Hyperparameters
from scvi_pp._errors import ModelRecordError
from tests.backend import small

LIKELIHOODS = ("zinb", "nb", "poisson", "normal")
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")


def everything(inputs: Any) -> Any:
    return small.cells(inputs).minibatch(torch.arange(inputs.counts.shape[0]))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_training_begins_at_the_mean_share_of_every_gene(likelihood: str):
    inputs = small.arrays(200)
    network = small.network(inputs, gene_likelihood=likelihood)
    network.start_from(small.cells(inputs), torch.arange(200))
    share = np.asarray(inputs.counts.sum(0)).ravel() / inputs.counts.sum()
    np.testing.assert_allclose(network.decoder.scale.bias.detach().exp(), share, rtol=1e-5)


def test_training_begins_at_the_mean_expression_per_unit_of_size_factor():
    inputs = small.arrays(200, size_factor=True)
    network = small.network(inputs)
    network.start_from(small.cells(inputs), torch.arange(200))
    expected = np.asarray(inputs.counts.sum(0)).ravel() / inputs.size_factor.sum()
    bias = torch.nn.functional.softplus(network.decoder.scale.bias.detach())
    np.testing.assert_allclose(bias, expected, rtol=1e-4)


@pytest.mark.parametrize("dispersion", DISPERSIONS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_start_has_a_finite_bound_and_a_finite_gradient(likelihood: str, dispersion: str):
    inputs = small.arrays(n_levels=(2, 3), n_numbers=1)
    network = small.network(inputs, gene_likelihood=likelihood, dispersion=dispersion, use_observed_lib_size=False)
    network.start_from(small.cells(inputs), torch.arange(60))
    elbo = network.train().elbo(everything(inputs))
    assert torch.isfinite(elbo.bound).all()
    elbo.loss(1.0).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("latent_library", [False, True])
def test_an_empty_cell_has_a_finite_bound(latent_library: bool):
    inputs = small.arrays()
    counts = inputs.counts.toarray()
    counts[7] = 0
    inputs = inputs._replace(counts=csr_matrix(counts))
    network = small.network(inputs, use_observed_lib_size=not latent_library)
    network.start_from(small.cells(inputs), torch.arange(60))
    assert torch.isfinite(network.elbo(everything(inputs)).bound).all()


def test_the_library_of_a_cell_is_its_total_or_its_size_factor():
    inputs = small.arrays(size_factor=True)
    given = small.network(inputs).encode(everything(inputs)).library
    np.testing.assert_allclose(given[:, 0].detach(), np.log(inputs.size_factor), rtol=1e-5)
    inputs = inputs._replace(size_factor=None)
    observed = small.network(inputs).encode(everything(inputs)).library
    np.testing.assert_allclose(observed[:, 0], np.log(np.asarray(inputs.counts.sum(1)).ravel()), rtol=1e-5)


def test_the_prior_of_a_hidden_library_is_that_of_the_batch():
    inputs = small.arrays()
    network = small.network(inputs, use_observed_lib_size=False)
    network.start_from(small.cells(inputs), torch.arange(60))
    p = network.p_library(everything(inputs))
    log_total = np.log(np.asarray(inputs.counts.sum(1)).ravel())
    for batch in (0, 1):
        cells = inputs.batch == batch
        np.testing.assert_allclose(p.mean[cells, 0], log_total[cells].mean(), rtol=1e-5)
        np.testing.assert_allclose(p.variance[cells, 0], log_total[cells].var(), rtol=1e-5)


def test_a_hidden_library_is_not_warmed_up():
    inputs = small.arrays()
    network = small.network(inputs, use_observed_lib_size=False)
    network.start_from(small.cells(inputs), torch.arange(60))
    elbo = network.elbo(everything(inputs))
    assert (elbo.fixed_divergence > 0).all()
    without = -(elbo.reconstruction - elbo.fixed_divergence).mean()
    torch.testing.assert_close(elbo.loss(0.0), without)


def test_a_latent_position_on_the_simplex_sums_to_one():
    network = small.network(small.arrays(), latent_distribution="ln")
    z = network.latent(torch.randn(5, 3))
    torch.testing.assert_close(z.sum(1), torch.ones(5))
    position = torch.randn(5, 3)
    assert small.network(small.arrays()).latent(position) is position


@pytest.mark.parametrize("dispersion", DISPERSIONS)
def test_dispersion_follows_what_it_is_said_to_follow(dispersion: str):
    inputs = small.arrays()
    network = small.network(inputs, gene_likelihood="nb", dispersion=dispersion).eval()
    cells = everything(inputs)._replace(batch=torch.arange(60) % 2, labels=torch.arange(60) // 30)
    with torch.no_grad():
        z = torch.randn(60, 3) if dispersion == "gene-cell" else torch.zeros(60, 3)
        theta = network.decode(z, torch.zeros(60, 1), cells).parameters()["dispersion"]
    groups = {"gene": torch.zeros(60), "gene-batch": cells.batch, "gene-label": cells.labels}
    if dispersion == "gene-cell":
        assert len(theta.unique(dim=0)) == 60
        return
    n_groups = len(groups[dispersion].unique())
    assert len(theta.unique(dim=0)) == n_groups
    for group in groups[dispersion].unique():
        assert len(theta[groups[dispersion] == group].unique(dim=0)) == 1


def test_denoised_expression_is_the_first_head_of_decoding():
    inputs = small.arrays()
    network = small.network(inputs, gene_likelihood="poisson").eval()
    cells, z = everything(inputs), torch.randn(60, 3)
    with torch.no_grad():
        library = torch.full((60, 1), 5.0)
        expected = network.decode(z, library, cells).mean
        torch.testing.assert_close((network.log_scale(z, cells) + library).exp(), expected)


@pytest.mark.parametrize("encode", [False, True])
@pytest.mark.parametrize("embedding", [False, True])
def test_the_encoder_sees_covariates_only_if_it_is_asked_to(encode: bool, embedding: bool):
    inputs = small.arrays(n_levels=(2,), n_numbers=1)
    how = "embedding" if embedding else "one-hot"
    network = small.network(inputs, encode_covariates=encode, batch_representation=how).eval()
    cells = everything(inputs)
    moved = {
        "batch": cells._replace(batch=1 - cells.batch),
        "categories": cells._replace(categories=1 - cells.categories),
        "numbers": cells._replace(numbers=cells.numbers + 1),
    }
    with torch.no_grad():
        z = torch.zeros(60, 3)
        for name, other in moved.items():
            same = torch.equal(network.encode(cells).q_z.loc, network.encode(other).q_z.loc)
            assert same != encode, name
            assert not torch.equal(network.log_scale(z, cells), network.log_scale(z, other)), name


def test_one_batch_has_no_weights():
    inputs = small.arrays(n_batches=1)
    assert not any("shifts" in name for name in small.network(inputs).state_dict())


def test_hyperparameters_come_back_from_json():
    inputs = small.arrays(n_levels=(2, 3))
    hp = replace(small.network(inputs).hyperparameters, dispersion="gene-cell")
    assert restored(Hyperparameters, json.loads(json.dumps(asdict(hp)))) == hp


def test_hyperparameters_that_are_unknown_are_refused():
    stored = asdict(small.network(small.arrays()).hyperparameters)
    with pytest.raises(TypeError, match="n_wings"):
        restored(Hyperparameters, {**stored, "n_wings": 2})


def test_the_same_seed_builds_the_same_network():
    hp: Hyperparameters = small.network(small.arrays()).hyperparameters
    first, second = (_built(hp, seed) for seed in (1, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, first[name]) for name, value in _built(hp, 2).items())


def _built(hp: Hyperparameters, seed: int) -> dict[str, torch.Tensor]:
    with private_random(small.CPU, seed):
        return models.named("scvi").build(hp).state_dict()


@pytest.mark.parametrize("name", models.NAMES)
def test_every_model_has_what_a_verb_asks_for(name: str):
    module = models.named(name)
    for part in ("Inputs", "Hyperparameters", "Network", "build"):
        assert hasattr(module, part)


def test_an_unknown_model_is_refused():
    with pytest.raises(ModelRecordError, match="'scvj'.*Known: scvi"):
        models.named("scvj")
