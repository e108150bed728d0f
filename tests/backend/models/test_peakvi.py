"""The generative story of PeakVI, term by term, and where training begins."""

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
from scvi_pp._backend.models.peakvi import OPEN_RANGE, Hyperparameters, log_to_logit
from tests.backend import small

N_CELLS, N_REGIONS = 60, 20
FACTORS: dict[str, dict[str, Any]] = {
    "both factors": {},
    "no cell factors": {"cell_factors": False},
    "no region factors": {"region_factors": False},
    "no factors": {"cell_factors": False, "region_factors": False},
}
OPTIONS: dict[str, dict[str, Any]] = {
    **FACTORS,
    "ln": {"latent_distribution": "ln"},
    "encoded covariates": {"encode_covariates": True},
    "deep": {"deeply_inject_covariates": True, "n_layers_encoder": 3, "n_layers_decoder": 3},
    "shallow": {"n_layers_encoder": 1, "n_layers_decoder": 1},
    "no norms": {"use_layer_norm": "none"},
}
every_factor = pytest.mark.parametrize("factors", FACTORS)
every_option = pytest.mark.parametrize("option", OPTIONS)
every_form = pytest.mark.parametrize("form", ["auto", "analytic", "reference"])


@pytest.fixture
def at_the_mean(monkeypatch: pytest.MonkeyPatch):
    small.draw_the_mean(monkeypatch)


def everything(inputs: Any) -> Any:
    return small.cells(inputs).minibatch(torch.arange(inputs.counts.shape[0]))


def bound(network: Any, cells: Any) -> torch.Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return network.elbo(cells).bound


# ---- the story


@every_factor
@every_form
def test_a_region_is_seen_open_if_it_is_open_and_the_cell_and_the_region_can_be_seen(form: str, factors: str):
    inputs = small.regions()
    network = small.peakvi_network(inputs, **FACTORS[factors]).eval()
    cells, z = everything(inputs), torch.randn(N_CELLS, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if network.region_factors is not None:
            network.region_factors.normal_()
        library = network.encode(cells).library
        chance = network.expression(z, cells).double()
        if network.hyperparameters.cell_factors:
            chance = chance * library.double().exp()
        if network.hyperparameters.region_factors:
            chance = chance * torch.sigmoid(network.region_factors.double())
        expected = torch.where(dense(cells.counts) > 0, chance, 1 - chance).log().sum(1)
        with kernels.use(form):
            found = network.log_likelihood(z, library, cells)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(network.decode(z, library, cells).mean.double(), chance, rtol=1e-5, atol=0)


@every_option
@every_form
def test_decoding_and_likelihood_taken_together_are_the_two_one_after_the_other(form: str, option: str):
    inputs = small.regions(n_levels=(2, 3), n_numbers=1)
    network = small.peakvi_network(inputs, **OPTIONS[option]).eval()
    cells = everything(inputs)
    with torch.no_grad(), kernels.use(form):
        posterior = network.encode(cells)
        z = network.latent(posterior.q_z.loc)
        together = network.log_likelihood(z, posterior.library, cells)
        apart = network.decode(z, posterior.library, cells).log_likelihood(cells.counts)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=0)


@every_form
def test_a_size_factor_takes_the_place_of_the_cell_factor(form: str):
    inputs = small.regions(size_factor=True)
    network = small.peakvi_network(inputs).eval()
    assert not any(name.startswith("cell_factor") for name in network.state_dict())
    cells = everything(inputs)
    with torch.no_grad(), kernels.use(form):
        posterior = network.encode(cells)
        np.testing.assert_allclose(posterior.library[:, 0].exp(), inputs.size_factor, rtol=1e-6)
        z = network.latent(posterior.q_z.loc)
        shares = torch.tensor(inputs.size_factor)[:, None]
        chance = network.expression_with_regions(z, cells) * shares
        expected = torch.where(dense(cells.counts) > 0, chance, 1 - chance).double().log().sum(1)
        found = network.log_likelihood(z, posterior.library, cells)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@every_form
def test_a_cell_of_which_everything_is_seen_is_one_without_a_factor_and_has_finite_gradients(form: str):
    inputs = small.regions(size_factor=True)._replace(size_factor=np.ones(N_CELLS, np.float32))
    whole = small.peakvi_network(inputs)
    without = small.peakvi_network(inputs, cell_factors=False)
    without.load_state_dict(whole.state_dict())
    cells = everything(inputs)
    with kernels.use(form):
        torch.testing.assert_close(bound(whole.eval(), cells), bound(without.eval(), cells), rtol=1e-5, atol=0)
        whole.elbo(cells).loss(1.0).backward()
    assert all(torch.isfinite(p.grad).all() for p in whole.parameters())


def test_the_logit_of_a_log_is_the_logit():
    logits = torch.tensor([-80.0, -10.0, -0.5, 0.0, 0.5, 4.0, 10.0, 15.0], dtype=torch.float64)
    log_p = torch.nn.functional.logsigmoid(logits)
    torch.testing.assert_close(log_to_logit(log_p), logits, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(log_to_logit(log_p.float()), logits.float(), rtol=1e-4, atol=1e-6)
    of_certain = log_to_logit(torch.tensor([0.0, -1e-12, 0.3]))
    assert torch.isfinite(of_certain).all()
    assert (of_certain > 15).all()


def test_the_logit_of_a_log_passes_gradients_on():
    """logsigmoid and its way back: together the identity."""
    logits = torch.tensor([-30.0, -3.0, 0.0, 3.0, 12.0], requires_grad=True)
    log_to_logit(torch.nn.functional.logsigmoid(logits)).sum().backward()
    torch.testing.assert_close(logits.grad, torch.ones(5), rtol=1e-4, atol=0)


def test_a_latent_position_on_the_simplex_sums_to_one():
    network = small.peakvi_network(small.regions(), latent_distribution="ln")
    torch.testing.assert_close(network.latent(torch.randn(5, 3)).sum(1), torch.ones(5))
    position = torch.randn(5, 3)
    assert small.peakvi_network(small.regions()).latent(position) is position


@pytest.mark.parametrize("region_factors", [True, False])
def test_some_regions_are_those_columns_of_all_with_and_without_their_factors(region_factors: bool):
    inputs = small.regions()
    network = small.peakvi_network(inputs, region_factors=region_factors).eval()
    if network.region_factors is not None:
        torch.nn.init.normal_(network.region_factors)
    cells, z, columns = everything(inputs), torch.randn(N_CELLS, 3), torch.tensor([7, 0, 19])
    with torch.no_grad():
        whole, factors = network.expression(z, cells), network.factor_of_regions()
        torch.testing.assert_close(network.expression(z, cells, columns), whole[:, columns])
        torch.testing.assert_close(network.expression_with_regions(z, cells), whole * factors)
        some = network.expression_with_regions(z, cells, columns)
        torch.testing.assert_close(some, (whole * factors)[:, columns])
    assert torch.equal(factors, torch.ones(N_REGIONS)) != region_factors
    assert ((factors > 0) & (factors <= 1)).all()


# ---- what is read of a cell


@every_option
@every_form
def test_any_count_is_as_good_as_one(form: str, option: str):
    inputs = small.regions(n_levels=(2, 3), n_numbers=1)
    assert inputs.counts.max() > 1
    network = small.peakvi_network(inputs, **OPTIONS[option]).eval()
    binary = inputs._replace(counts=inputs.counts.sign())
    with kernels.use(form):
        assert torch.equal(bound(network, everything(inputs)), bound(network, everything(binary)))


@every_option
@every_form
def test_a_dense_minibatch_says_what_the_compressed_rows_say(form: str, option: str):
    """A GPU is handed the former, a CPU the latter."""
    inputs = small.regions(n_levels=(2, 3), n_numbers=1)
    rows = everything(inputs)
    found = []
    for cells in (rows, rows._replace(counts=dense(rows.counts))):
        network = small.peakvi_network(inputs, **OPTIONS[option]).eval()
        with kernels.use(form), torch.random.fork_rng():
            torch.manual_seed(0)
            elbo = network.elbo(cells)
            elbo.loss(0.5).backward()
        found.append([elbo.bound.detach(), *(p.grad for p in network.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encode", [False, True])
def test_the_encoder_sees_covariates_only_if_it_is_asked_to(encode: bool):
    inputs = small.regions(n_levels=(2,), n_numbers=1)
    network = small.peakvi_network(inputs, encode_covariates=encode).eval()
    cells = everything(inputs)
    moved = {
        "batch": cells._replace(batch=1 - cells.batch),
        "categories": cells._replace(categories=1 - cells.categories),
        "numbers": cells._replace(numbers=cells.numbers + 1),
    }
    with torch.no_grad():
        z, before = torch.zeros(N_CELLS, 3), network.encode(cells)
        for name, other in moved.items():
            after = network.encode(other)
            assert torch.equal(before.q_z.loc, after.q_z.loc) != encode, name
            assert torch.equal(before.library, after.library) != encode, name
            assert not torch.equal(network.expression(z, cells), network.expression(z, other)), name


def test_one_batch_has_no_weights():
    inputs = small.regions(n_batches=1)
    assert not any("shifts" in name for name in small.peakvi_network(inputs).state_dict())


@pytest.mark.parametrize(("deeply", "n_injected"), [(False, 1), (True, 2)])
def test_covariates_enter_every_layer_of_the_encoder_but_of_the_decoder_only_if_asked(deeply: bool, n_injected: int):
    network = small.peakvi_network(small.regions(), encode_covariates=True, deeply_inject_covariates=deeply)
    injected = {
        name: sum(len(block.linear.shifts) > 0 for block in getattr(network, name).body.blocks)
        for name in ("encoder", "decoder", "cell_factor")
    }
    assert injected == {"encoder": 2, "decoder": n_injected, "cell_factor": 1}


# ---- the objective


@every_option
@every_form
def test_every_weight_has_a_finite_gradient_that_is_not_nothing(form: str, option: str):
    inputs = small.regions(200, n_levels=(2, 3), n_numbers=1)
    network = small.peakvi_network(inputs, **OPTIONS[option])
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
    """The mean over minibatches is that over all cells, at any KL weight: the peer's has another one for each size."""
    inputs = small.regions()
    network, cells = small.peakvi_network(inputs).eval(), small.cells(inputs)

    def loss(size: int, kl_weight: float) -> float:
        blocks = [cell for _, cell in cells.blocks(size)]
        return float(torch.stack([network.elbo(block).loss(kl_weight) for block in blocks]).mean())

    with torch.no_grad(), kernels.use(form):
        divergence = network.elbo(everything(inputs)).divergence.mean()
        for size in (5, 12, 30):
            for kl_weight in (0.0, 0.3, 1.0):
                assert loss(size, kl_weight) == pytest.approx(loss(N_CELLS, kl_weight), rel=1e-5)
            assert loss(size, 1.0) - loss(size, 0.0) == pytest.approx(float(divergence), rel=1e-4)


@every_form
@pytest.mark.usefixtures("at_the_mean")
def test_the_gradient_does_not_depend_on_the_size_of_a_minibatch(form: str):
    inputs = small.regions()
    cells = small.cells(inputs)
    found = []
    for size in (N_CELLS, 12):
        network = small.peakvi_network(inputs).eval()
        with kernels.use(form):
            for _, block in cells.blocks(size):
                (network.elbo(block).loss(0.3) * size / N_CELLS).backward()
        found.append([p.grad for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_bound_is_the_likelihood_less_the_divergence():
    inputs = small.regions()
    network = small.peakvi_network(inputs).eval()
    elbo = network.elbo(everything(inputs))
    torch.testing.assert_close(elbo.bound, elbo.reconstruction - elbo.divergence)
    assert (elbo.divergence > 0).all()
    assert not elbo.fixed_divergence.any()


@every_option
@every_form
def test_cells_without_open_regions_and_regions_never_or_always_open_have_finite_bounds(form: str, option: str):
    inputs = small.regions(n_levels=(2, 3), n_numbers=1)
    counts = inputs.counts.toarray()
    counts[:, 3], counts[7], counts[8] = 0, 0, 2
    inputs = inputs._replace(counts=csr_matrix(counts))
    network = small.peakvi_network(inputs, **OPTIONS[option])
    network.start_from(small.cells(inputs), torch.arange(N_CELLS))
    with kernels.use(form):
        elbo = network.train().elbo(everything(inputs))
        elbo.loss(1.0).backward()
    assert torch.isfinite(elbo.bound).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_no_open_regions_at_all_are_a_start_too():
    inputs = small.regions()._replace(counts=csr_matrix((N_CELLS, N_REGIONS), dtype=np.float32))
    network = small.peakvi_network(inputs)
    network.start_from(small.cells(inputs), torch.arange(N_CELLS))
    assert torch.isfinite(network.elbo(everything(inputs)).bound).all()


# ---- the start


def simulated(share: np.ndarray, n_cells: int = 4000, *, seen: np.ndarray | None = None) -> Any:
    """Each region open in its share of the cells, of which the part `seen` is seen; two batches."""
    rng = np.random.default_rng(0)
    chance = share * (np.ones(n_cells) if seen is None else seen)[:, None]
    counts = csr_matrix((rng.random((n_cells, len(share))) < chance).astype(np.float32))
    inputs = small.regions(n_cells, len(share))._replace(counts=counts)
    return inputs if seen is None else inputs._replace(size_factor=seen.astype(np.float32))


@every_factor
def test_training_begins_at_the_mean_openness_of_every_region(factors: str):
    share = np.array([0.001, 0.01, 0.05, 0.1, 0.2])
    inputs = simulated(share)
    network = small.peakvi_network(inputs, **FACTORS[factors])
    network.start_from(small.cells(inputs), torch.arange(4000))
    n_factors = sum(FACTORS[factors].get(name, True) for name in ("cell_factors", "region_factors"))
    at_start = torch.sigmoid(network.decoder.logits.bias.detach()) * 0.5**n_factors
    observed = np.asarray((inputs.counts > 0).mean(0)).ravel()
    np.testing.assert_allclose(at_start, np.maximum(observed, OPEN_RANGE[0]), rtol=1e-4)


@every_factor
def test_the_first_guess_of_every_region_is_near_its_openness(factors: str):
    """What random weights add to the bias is all that is off; in the mean over all regions most of it cancels."""
    inputs = simulated(np.linspace(0.02, 0.2, 200), 500)
    network = small.peakvi_network(inputs, n_hidden=64, **FACTORS[factors]).eval()
    network.start_from(small.cells(inputs), torch.arange(500))
    cells = everything(inputs)
    with torch.no_grad():
        posterior = network.encode(cells)
        guess = network.decode(network.latent(posterior.q_z.loc), posterior.library, cells).mean
    observed = np.asarray((inputs.counts > 0).mean(0)).ravel()
    assert np.corrcoef(guess.mean(0), observed)[0, 1] > 0.7
    assert float(guess.mean()) == pytest.approx(observed.mean(), rel=0.2)


def test_training_begins_at_the_openness_behind_given_size_factors():
    share = np.array([0.1, 0.3, 0.02])
    inputs = simulated(share, 20_000, seen=np.random.default_rng(1).uniform(0.1, 0.6, 20_000))
    network = small.peakvi_network(inputs)
    network.start_from(small.cells(inputs), torch.arange(20_000))
    at_start = torch.sigmoid(network.decoder.logits.bias.detach()) * 0.5
    np.testing.assert_allclose(at_start, share, rtol=0.1)


def test_training_begins_at_the_rows_of_training_alone():
    inputs = simulated(np.array([0.1, 0.2]))
    counts = inputs.counts.toarray()
    counts[2000:] = 1
    inputs = inputs._replace(counts=csr_matrix(counts))
    network = small.peakvi_network(inputs)
    network.start_from(small.cells(inputs), torch.arange(2000))
    at_start = torch.sigmoid(network.decoder.logits.bias.detach()) * 0.25
    np.testing.assert_allclose(at_start, counts[:2000].mean(0), rtol=1e-4)


# ---- hyperparameters


def test_hyperparameters_come_back_from_json():
    inputs = small.regions(n_levels=(2, 3))
    hp = replace(small.peakvi_network(inputs).hyperparameters, region_factors=False)
    assert restored(Hyperparameters, json.loads(json.dumps(asdict(hp)))) == hp


def test_hyperparameters_that_are_unknown_are_refused():
    stored = asdict(small.peakvi_network(small.regions()).hyperparameters)
    with pytest.raises(TypeError, match="n_wings"):
        restored(Hyperparameters, {**stored, "n_wings": 2})


def test_the_same_seed_builds_the_same_network():
    first, second, third = (small.peakvi_network(small.regions(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, third[name]) for name, value in first.items())
