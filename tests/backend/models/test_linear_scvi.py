"""scVI with a linear decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend import kernels
from scvi_pp._backend.models import restored
from scvi_pp._backend.models.linear_scvi import Hyperparameters, Inputs, Network, build
from scvi_pp._backend.surgery import mapping
from tests.backend import small

COVARIATES: dict[str, Any] = {"n_levels": (3, 1, 2), "n_numbers": 2}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"n_batches": 1}, {}),
    "covariates": (COVARIATES, {}),
    "zinb": (COVARIATES, {"gene_likelihood": "zinb"}),
    "poisson": ({}, {"gene_likelihood": "poisson"}),
    "size factor": ({**COVARIATES, "size_factor": True}, {"gene_likelihood": "zinb"}),
    "gene-batch": ({}, {"dispersion": "gene-batch"}),
    "gene-label": ({}, {"dispersion": "gene-label"}),
    "latent library": ({}, {"use_observed_lib_size": False}),
    "ln": ({}, {"latent_distribution": "ln"}),
}


def made(name: str) -> tuple[Network, Any]:
    data, options = VARIANTS[name]
    found = small.arrays(**data)
    network = small.linear_network(found, **options)
    return network.eval(), small.cells(found).minibatch(torch.arange(60))


@pytest.mark.parametrize("name", VARIANTS)
def test_log_shares_are_linear_in_the_position(name: str):
    network, cells = made(name)
    if network.hyperparameters.has_size_factor:
        return
    z = torch.randn(3, 60, 3, generator=torch.Generator().manual_seed(0))
    low, step = z[0], z[1]
    shares = [network.expression(low + times * step, cells).log() for times in (0, 1, 2)]
    rises = [after - before for before, after in zip(shares, shares[1:], strict=False)]
    centred = [rise - rise.mean(1, keepdim=True) for rise in rises]
    torch.testing.assert_close(centred[0], centred[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(centred[0], step @ network.loadings().t(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("form", ["reference", "compiled"])
def test_the_likelihood_is_that_of_the_decoded_parameters(form: str, name: str):
    network, cells = made(name)
    posterior = network.encode(cells)
    z = network.latent(posterior.q_z.loc)
    with kernels.use(form):
        found = network.log_likelihood(z, posterior.library, cells)
    expected = network.decode(z, posterior.library, cells).log_likelihood(cells.counts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_shares_of_some_genes_are_those_among_all(name: str):
    network, cells = made(name)
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    columns = torch.tensor([7, 2, 11])
    torch.testing.assert_close(network.expression(z, cells, columns), network.expression(z, cells)[:, columns])


def test_a_batch_shifts_each_gene_by_the_same_wherever_a_cell_is():
    network, cells = made("covariates")
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    moved = [network.expression(z, cells._replace(batch=torch.full_like(cells.batch, batch))).log() for batch in (0, 1)]
    shift = moved[1] - moved[0]
    shift = shift - shift.mean(1, keepdim=True)
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=1e-3, atol=1e-4)
    assert shift.abs().max() > 0.01


def test_loadings_are_centred_over_genes_and_leave_out_covariates():
    network, _ = made("covariates")
    loadings = network.loadings()
    assert loadings.shape == (20, 3)
    torch.testing.assert_close(loadings.mean(0), torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_is_learned(name: str):
    network, cells = made(name)
    network.elbo(cells).loss(0.5).backward()
    without = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    flat = [key for key, parameter in network.named_parameters() if not parameter.grad.any()]
    # a bias before a batch norm has no gradient but rounding
    assert all(key.endswith("blocks.0.linear.linear.bias") for key in flat)


@pytest.mark.parametrize("name", ["plain", "size factor"])
def test_training_starts_at_the_mean_expression(name: str):
    network, _ = made(name)
    found = small.arrays(**VARIANTS[name][0])
    network.start_from(small.cells(found), torch.arange(60))
    bias = network.scvi.decoder.scale.linear.bias.detach()
    counts = found.counts.toarray()
    if name == "plain":
        np.testing.assert_allclose(bias.exp(), counts.sum(0) / counts.sum(), rtol=0.02, atol=1e-4)
    else:
        assert torch.isfinite(bias).all()


def test_a_larger_network_says_the_same_of_known_batches():
    network, cells = made("covariates")
    more = replace(network.hyperparameters, n_batches=4, n_levels=(4, 2, 2))
    grown = mapping(network, build(more), "new").eval().finished()
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(grown.expression(z, cells), network.expression(z, cells), rtol=1e-6, atol=0)
    assert torch.equal(grown.loadings(), network.loadings())


def test_hyperparameters_survive_json():
    hyperparameters = made("covariates")[0].hyperparameters
    stored = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(hyperparameters).items()}
    assert restored(Hyperparameters, stored) == hyperparameters
    assert Hyperparameters.__dataclass_fields__.keys() == stored.keys()
    assert Inputs._fields[0] == "counts"
