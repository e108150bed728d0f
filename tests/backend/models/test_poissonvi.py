"""PoissonVI is scVI with a Poisson likelihood and other layers, and knows regions from cells."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend import kernels
from scvi_pp._backend.kernels.counts import dense
from scvi_pp._backend.models import restored
from scvi_pp._backend.models.poissonvi import Hyperparameters
from tests.backend import small

N_CELLS, N_REGIONS = 60, 20
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "ln": {"latent_distribution": "ln"},
    "encoded covariates": {"encode_covariates": True},
    "embedding": {"batch_representation": "embedding"},
    "encoded embedding": {"batch_representation": "embedding", "encode_covariates": True},
    "shallow": {"n_layers": 1, "deeply_inject_covariates": False},
    "latent library": {"use_observed_lib_size": False},
    "no norms": {"use_layer_norm": "none"},
}
every_option = pytest.mark.parametrize("option", OPTIONS)
every_form = pytest.mark.parametrize("form", ["auto", "analytic", "reference"])
each_exposure = pytest.mark.parametrize("size_factor", [False, True], ids=["totals", "size factors"])


@pytest.fixture
def at_the_mean(monkeypatch: pytest.MonkeyPatch):
    small.draw_the_mean(monkeypatch)


def everything(inputs: Any) -> Any:
    return small.cells(inputs).minibatch(torch.arange(inputs.counts.shape[0]))


# ---- the story


@each_exposure
@every_form
def test_fragments_are_poisson_about_the_share_of_the_region(form: str, size_factor: bool):
    inputs = small.arrays(size_factor=size_factor)
    network = small.poissonvi_network(inputs).eval()
    cells, z = everything(inputs), torch.randn(N_CELLS, 3, generator=torch.Generator().manual_seed(0))
    exposure = inputs.size_factor if size_factor else np.asarray(inputs.counts.sum(1)).ravel()
    with torch.no_grad(), kernels.use(form):
        library = network.encode(cells).library
        np.testing.assert_allclose(library[:, 0].exp(), exposure, rtol=1e-5)
        rate = (library.exp() * network.expression_with_regions(z, cells)).double()
        torch.testing.assert_close(network.decode(z, library, cells).mean.double(), rate, rtol=1e-5, atol=0)
        expected = torch.distributions.Poisson(rate).log_prob(dense(cells.counts).double()).sum(1)
        found = network.scvi.log_likelihood(z, library, cells)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_accessibility_is_what_is_left_without_the_factors_of_regions():
    inputs = small.arrays()
    network = small.poissonvi_network(inputs).eval()
    torch.nn.init.normal_(network.scvi.decoder.scale.bias)
    cells, z = everything(inputs), torch.randn(N_CELLS, 3)
    with torch.no_grad():
        both, alone = network.expression_with_regions(z, cells), network.expression(z, cells)
        torch.testing.assert_close(alone.sum(1), torch.ones(N_CELLS))
        torch.testing.assert_close(both.sum(1), torch.ones(N_CELLS))
        unnormalised = alone * network.factor_of_regions().exp()
        torch.testing.assert_close(both, unnormalised / unnormalised.sum(1, keepdim=True))


@each_exposure
def test_some_regions_are_those_columns_of_all(size_factor: bool):
    inputs = small.arrays(size_factor=size_factor)
    network = small.poissonvi_network(inputs).eval()
    torch.nn.init.normal_(network.scvi.decoder.scale.bias)
    cells, z, columns = everything(inputs), torch.randn(N_CELLS, 3), torch.tensor([7, 0, 19])
    with torch.no_grad():
        for of_regions in (network.expression, network.expression_with_regions):
            torch.testing.assert_close(of_regions(z, cells, columns), of_regions(z, cells)[:, columns])


def test_the_factors_of_regions_are_told_and_not_handed_out():
    network = small.poissonvi_network(small.arrays())
    factors = network.factor_of_regions()
    assert factors.shape == (N_REGIONS,)
    assert not factors.requires_grad


def test_layers_are_leaky_and_normalised_over_units():
    network = small.poissonvi_network(small.arrays())
    for body in (network.scvi.encoder.body, network.scvi.decoder.body):
        assert len(body.blocks) == 2
        for block in body.blocks:
            assert block.batch_norm is None
            assert block.layer_norm is not None
            assert float(block.activation(torch.tensor(-1.0))) == pytest.approx(-0.01)


def test_there_is_nothing_of_other_likelihoods():
    network = small.poissonvi_network(small.arrays())
    names = network.state_dict().keys()
    assert not any("dispersion" in name or "dropout" in name for name in names)


# ---- what is read of a cell


@each_exposure
@every_option
@every_form
def test_a_dense_minibatch_says_what_the_compressed_rows_say(form: str, option: str, size_factor: bool):
    """A GPU is handed the former, a CPU the latter."""
    inputs = small.arrays(n_levels=(2, 3), n_numbers=1, size_factor=size_factor)
    rows = everything(inputs)
    found = []
    for cells in (rows, rows._replace(counts=dense(rows.counts))):
        network = small.poissonvi_network(inputs, **OPTIONS[option]).eval()
        with kernels.use(form), torch.random.fork_rng():
            torch.manual_seed(0)
            elbo = network.elbo(cells)
            elbo.loss(0.5).backward()
        found.append([elbo.bound.detach(), *(p.grad for p in network.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_fragments_are_not_only_whether_there_are_any():
    inputs = small.arrays()
    network = small.poissonvi_network(inputs).eval()
    cells = everything(inputs)
    binary = cells._replace(counts=cells.counts.sign())
    with torch.no_grad():
        assert not torch.allclose(network.encode(cells).q_z.loc, network.encode(binary).q_z.loc)


@pytest.mark.parametrize("encode", [False, True])
def test_the_encoder_sees_covariates_only_if_it_is_asked_to(encode: bool):
    inputs = small.arrays(n_levels=(2,), n_numbers=1)
    network = small.poissonvi_network(inputs, encode_covariates=encode).eval()
    cells = everything(inputs)
    moved = {
        "batch": cells._replace(batch=1 - cells.batch),
        "categories": cells._replace(categories=1 - cells.categories),
        "numbers": cells._replace(numbers=cells.numbers + 1),
    }
    with torch.no_grad():
        z, before = torch.zeros(N_CELLS, 3), network.encode(cells).q_z.loc
        for name, other in moved.items():
            assert torch.equal(before, network.encode(other).q_z.loc) != encode, name
            assert not torch.equal(network.expression(z, cells), network.expression(z, other)), name


@pytest.mark.parametrize(("deeply", "n_injected"), [(False, 1), (True, 2)])
def test_covariates_enter_the_first_layer_or_every_one(deeply: bool, n_injected: int):
    network = small.poissonvi_network(small.arrays(), deeply_inject_covariates=deeply)
    assert sum(len(block.linear.shifts) > 0 for block in network.scvi.decoder.body.blocks) == n_injected


# ---- the objective


@each_exposure
@every_option
@every_form
def test_every_weight_has_a_finite_gradient_that_is_not_nothing(form: str, option: str, size_factor: bool):
    inputs = small.arrays(200, n_levels=(2, 3), n_numbers=1, size_factor=size_factor)
    network = small.poissonvi_network(inputs, **OPTIONS[option])
    network.start_from(small.cells(inputs), torch.arange(200))
    with kernels.use(form):
        network.train().elbo(everything(inputs)).loss(1.0).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-7, name


@every_form
@pytest.mark.usefixtures("at_the_mean")
def test_the_loss_does_not_depend_on_the_size_of_a_minibatch(form: str):
    inputs = small.arrays()
    network, cells = small.poissonvi_network(inputs).eval(), small.cells(inputs)
    with torch.no_grad(), kernels.use(form):
        for kl_weight in (0.0, 0.3, 1.0):
            whole = float(network.elbo(everything(inputs)).loss(kl_weight))
            for size in (5, 12, 30):
                losses = [network.elbo(block).loss(kl_weight) for _, block in cells.blocks(size)]
                assert float(torch.stack(losses).mean()) == pytest.approx(whole, rel=1e-5)


@each_exposure
@every_option
@every_form
def test_empty_cells_and_regions_without_fragments_have_finite_bounds(form: str, option: str, size_factor: bool):
    inputs = small.arrays(n_levels=(2, 3), n_numbers=1, size_factor=size_factor)
    counts = inputs.counts.toarray()
    counts[:, 3], counts[7] = 0, 0
    inputs = inputs._replace(counts=csr_matrix(counts))
    network = small.poissonvi_network(inputs, **OPTIONS[option])
    network.start_from(small.cells(inputs), torch.arange(N_CELLS))
    with kernels.use(form):
        elbo = network.train().elbo(everything(inputs))
        elbo.loss(1.0).backward()
    assert torch.isfinite(elbo.bound).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


# ---- the start


def test_training_begins_at_the_mean_share_of_every_region():
    inputs = small.arrays(200)
    network = small.poissonvi_network(inputs)
    network.start_from(small.cells(inputs), torch.arange(200))
    share = np.asarray(inputs.counts.sum(0)).ravel() / inputs.counts.sum()
    np.testing.assert_allclose(network.factor_of_regions().exp(), share, rtol=1e-5)


def test_training_begins_at_the_mean_fragments_per_unit_of_size_factor():
    inputs = small.arrays(200, size_factor=True)
    network = small.poissonvi_network(inputs)
    network.start_from(small.cells(inputs), torch.arange(200))
    expected = np.asarray(inputs.counts.sum(0)).ravel() / inputs.size_factor.sum()
    np.testing.assert_allclose(torch.nn.functional.softplus(network.factor_of_regions()), expected, rtol=1e-4)


# ---- hyperparameters


def test_hyperparameters_come_back_from_json():
    inputs = small.arrays(n_levels=(2, 3))
    hp = replace(small.poissonvi_network(inputs).hyperparameters, batch_representation="embedding")
    assert restored(Hyperparameters, json.loads(json.dumps(asdict(hp)))) == hp


def test_hyperparameters_that_are_unknown_are_refused():
    stored = asdict(small.poissonvi_network(small.arrays()).hyperparameters)
    with pytest.raises(TypeError, match="n_wings"):
        restored(Hyperparameters, {**stored, "n_wings": 2})


def test_the_same_seed_builds_the_same_network():
    first, second, third = (small.poissonvi_network(small.arrays(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, third[name]) for name, value in first.items())
