"""What a fitted network answers: the same whatever the blocks are, and right where the truth can be integrated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend import query
from scvi_pp._backend.fit import fit
from scvi_pp._backend.kernels.counts import dense
from scvi_pp._backend.models.scvi import Network
from scvi_pp._backend.query import SIMPLEX_DRAWS, Posterior, region_factors
from tests.backend import small

N_CELLS, N_GENES = 37, 11
MODELS: dict[str, dict[str, Any]] = {
    "zinb": {},
    "normal": {"gene_likelihood": "normal"},
    "ln": {"latent_distribution": "ln", "gene_likelihood": "nb"},
    "latent library": {"use_observed_lib_size": False, "gene_likelihood": "poisson"},
    "peakvi": {},
    "peakvi, ln": {"latent_distribution": "ln", "region_factors": False},
    "poissonvi": {},
}
CHROMATIN = tuple(name for name in MODELS if name.startswith(("peakvi", "poissonvi")))


def denoised(posterior: Posterior, **options: Any) -> np.ndarray:
    options = {"columns": None, "library_size": 1.0, "batches": None, "n_samples": None, **options}
    width = N_GENES if options["columns"] is None else len(options["columns"])
    return posterior.denoised(np.full((N_CELLS, width), np.nan, np.float32), **options)


ANSWERS: dict[str, Callable[[Posterior], Any]] = {
    "latent mean": Posterior.latent_mean,
    "latent distribution": Posterior.latent_distribution,
    "latent samples": lambda posterior: posterior.latent_samples(3),
    "denoised": denoised,
    "denoised from draws": lambda posterior: denoised(posterior, n_samples=3, batches=[0, 1], library_size=None),
    "parameters": lambda posterior: list(posterior.parameters(columns=None, n_samples=2).values()),
    "library size": Posterior.library_size,
    "elbo": lambda posterior: list(posterior.elbo(2).values()),
    "marginal log-likelihood": lambda posterior: posterior.marginal_log_likelihood(5),
    "predictive": lambda posterior: [m.toarray() for m in posterior.predictive(2, columns=None, batches=[0, 1])],
    "denoised draws": lambda posterior: posterior.denoised_draws(2, columns=None, batch=1, library_size=100.0),
}
every_answer = pytest.mark.parametrize("answer", ANSWERS)


@pytest.fixture(scope="module", params=MODELS)
def fitted(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A network trained for a few steps, and its cells."""
    return _fitted(request.param)


def _fitted(name: str) -> tuple[Any, Any]:
    network, cells = _untrained(name, N_CELLS, N_GENES)
    fit(network, cells, small.plan(N_CELLS, max_epochs=5))
    return network, cells


def _untrained(name: str, n_cells: int, n_genes: int, **options: Any) -> tuple[Any, Any]:
    inputs: Any = (small.regions if name.startswith("peakvi") else small.arrays)(n_cells, n_genes)
    if name.startswith("peakvi"):
        network: Any = small.peakvi_network(inputs, **MODELS[name], **options)
    elif name == "poissonvi":
        network = small.poissonvi_network(inputs, **MODELS[name], **options)
    else:
        network = small.network(inputs, **MODELS[name], **options)
    return network, small.cells(inputs)


@every_answer
def test_answers_do_not_depend_on_the_batch_size(fitted: tuple[Any, Any], answer: str):
    whole = ANSWERS[answer](Posterior(*fitted))
    for batch_size in (1, 7, 1000):
        again = ANSWERS[answer](Posterior(*fitted, batch_size=batch_size))
        for found, expected in zip(_parts(again), _parts(whole), strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@every_answer
def test_the_same_seed_gives_the_same_answer_and_global_state_is_left_alone(fitted: tuple[Any, Any], answer: str):
    first = ANSWERS[answer](Posterior(*fitted, seed=3))
    before = torch.random.get_rng_state()
    torch.rand(5)
    torch.random.set_rng_state(before)
    second = ANSWERS[answer](Posterior(*fitted, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    for found, expected in zip(_parts(second), _parts(first), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("answer", ["latent samples", "elbo", "marginal log-likelihood", "predictive"])
def test_another_seed_gives_other_draws(fitted: tuple[Any, Any], answer: str):
    first, second = (ANSWERS[answer](Posterior(*fitted, seed=seed)) for seed in (3, 4))
    assert not np.array_equal(_parts(first)[0], _parts(second)[0])


def test_the_network_is_asked_in_eval_mode(fitted: tuple[Any, Any]):
    network, cells = fitted
    expected = Posterior(network, cells).latent_mean()
    network.train()
    np.testing.assert_array_equal(Posterior(network, cells).latent_mean(), expected)


def test_some_genes_are_those_columns_of_all(fitted: tuple[Any, Any]):
    posterior, columns = Posterior(*fitted), np.array([9, 0, 4])
    for options in ({}, {"n_samples": 2, "batches": [0, 1], "library_size": None}):
        some, whole = denoised(posterior, columns=columns, **options), denoised(posterior, **options)
        np.testing.assert_allclose(some, whole[:, columns], rtol=1e-5)
    whole = posterior.parameters(columns=None, n_samples=1)
    for name, values in posterior.parameters(columns=columns, n_samples=1).items():
        np.testing.assert_array_equal(values, whole[name][:, columns])


def test_expression_can_be_written_into_columns_of_a_wider_layer(fitted: tuple[Any, Any]):
    out = np.full((N_CELLS, 20), np.nan, np.float32)
    into = np.arange(N_GENES) + 5
    options = {"columns": None, "library_size": 1.0, "batches": None, "n_samples": None}
    Posterior(*fitted).denoised(out, into=into, **options)
    np.testing.assert_array_equal(out[:, into], denoised(Posterior(*fitted)))
    assert np.isnan(np.delete(out, into, axis=1)).all()


def test_draws_and_batches_are_averaged(fitted: tuple[Any, Any]):
    posterior = Posterior(*fitted)
    each = [denoised(posterior, batches=[batch]) for batch in (0, 1)]
    np.testing.assert_allclose(denoised(posterior, batches=[0, 1]), np.mean(each, axis=0), rtol=1e-5)


@pytest.mark.parametrize("fitted", [name for name in MODELS if not name.startswith("peakvi")], indirect=True)
def test_shares_sum_to_the_library_size_asked_for(fitted: tuple[Any, Any]):
    posterior = Posterior(*fitted)
    np.testing.assert_allclose(denoised(posterior, library_size=1e4).sum(1), 1e4, rtol=1e-4)
    own = denoised(posterior, library_size=None).sum(1)
    np.testing.assert_allclose(own, posterior.library_size(), rtol=1e-4)


@pytest.mark.parametrize("fitted", CHROMATIN, indirect=True)
@pytest.mark.parametrize("options", [{}, {"n_samples": 2, "batches": [0, 1], "library_size": None}])
def test_with_regions_accessibility_is_put_on_the_scale_of_each_region(
    fitted: tuple[Any, Any], options: dict[str, Any]
):
    posterior, columns = Posterior(*fitted), np.array([9, 0, 4])
    whole = denoised(posterior, value="expression_with_regions", **options)
    some = denoised(posterior, value="expression_with_regions", columns=columns, **options)
    np.testing.assert_allclose(some, whole[:, columns], rtol=1e-5)
    factors, without = region_factors(posterior.network), denoised(posterior, **options)
    if factors.min() > 0:  # of PeakVI: shares; those of PoissonVI belong to its composition
        np.testing.assert_allclose(whole, without * factors, rtol=1e-5)
    else:
        assert not np.allclose(whole, without)


@pytest.mark.parametrize("fitted", ["peakvi", "poissonvi"], indirect=True)
def test_with_regions_and_all_that_is_seen_of_a_cell_accessibility_is_the_mean_of_the_likelihood(
    fitted: tuple[Any, Any],
):
    posterior = Posterior(*fitted)
    parameters = posterior.parameters(columns=None, n_samples=None)
    (mean,) = parameters.values()
    np.testing.assert_allclose(denoised(posterior, value="expression_with_regions", library_size=None), mean, rtol=1e-5)


@pytest.mark.parametrize("fitted", ["peakvi", "peakvi, ln"], indirect=True)
def test_the_library_size_of_a_cell_of_chromatin_is_how_much_of_it_was_seen(fitted: tuple[Any, Any]):
    posterior = Posterior(*fitted)
    of_cells = posterior.library_size()
    assert ((of_cells > 0) & (of_cells < 1)).all()
    ratio = denoised(posterior, library_size=None) / denoised(posterior)
    np.testing.assert_allclose(ratio, np.broadcast_to(of_cells[:, None], ratio.shape), rtol=1e-5)


def test_a_given_size_factor_is_how_much_of_a_cell_was_seen():
    inputs = small.regions(N_CELLS, N_GENES, size_factor=True)
    posterior = Posterior(small.peakvi_network(inputs), small.cells(inputs))
    np.testing.assert_allclose(posterior.library_size(), inputs.size_factor, rtol=1e-6)


def test_region_factors_are_told_of_models_of_chromatin_alone(fitted: tuple[Any, Any]):
    factors = region_factors(Posterior(*fitted).network)
    if isinstance(fitted[0], Network):
        assert factors is None
        with pytest.raises(TypeError, match="no regions"):
            denoised(Posterior(*fitted), value="expression_with_regions")
        return
    assert factors.shape == (N_GENES,)
    assert np.isfinite(factors).all()


def test_the_mean_of_many_draws_is_the_latent_mean(fitted: tuple[Any, Any]):
    posterior = Posterior(*fitted)
    draws = posterior.latent_samples(400)
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - posterior.latent_mean()) < 5 * error + 1e-3).all()


def test_predictive_draws_have_the_mean_of_the_likelihood(fitted: tuple[Any, Any]):
    posterior = Posterior(*fitted)
    n = 300
    of_draws = np.array([matrix.toarray().mean(0) for matrix in posterior.predictive(n, columns=None, batches=None)])
    parameters = posterior.parameters(columns=None, n_samples=n)
    mean = parameters["probability" if "probability" in parameters else "mean"] * (1 - parameters.get("dropout", 0.0))
    error = np.sqrt(2 / n) * of_draws.std(0)  # of both means, over as many draws of the latent position
    assert (np.abs(of_draws.mean(0) - mean.mean(0)) < 5 * error + 1e-3).all()


def test_the_marginal_log_likelihood_lies_above_the_bound(fitted: tuple[Any, Any]):
    posterior = Posterior(*fitted)
    assert posterior.marginal_log_likelihood(200).mean() > posterior.elbo(200)["bound"].mean()


def test_the_mean_on_the_simplex_is_that_of_its_draws():
    network, cells = _fitted("ln")
    mean = Posterior(network, cells).latent_mean()
    np.testing.assert_allclose(mean.sum(1), 1, rtol=1e-5)
    location, variance = Posterior(network, cells).latent_distribution()
    rng = np.random.default_rng(0)
    draws = np.exp(location + np.sqrt(variance) * rng.standard_normal((20_000, *location.shape)))
    shares = draws / draws.sum(-1, keepdims=True)
    error = shares.std(0) * np.sqrt(1 / len(shares) + 1 / SIMPLEX_DRAWS)
    assert (np.abs(mean - shares.mean(0)) < 5 * error + 1e-3).all()


def test_a_hidden_library_size_is_the_mean_of_its_log_normal():
    network, cells = _fitted("latent library")
    with torch.no_grad():
        q = network.encode(cells.minibatch(torch.arange(N_CELLS))).q_library
    expected = torch.distributions.LogNormal(q.loc, q.scale).mean[:, 0]
    np.testing.assert_allclose(Posterior(network, cells).library_size(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["zinb", "latent library", "ln", *CHROMATIN])
def test_the_marginal_log_likelihood_is_the_integral_over_what_is_hidden(name: str):
    network, cells = _untrained(name, 8, 8, n_latent=2 if name.endswith("ln") else 1)
    network.eval().start_from(cells, torch.arange(8))
    _propose_widely(network.scvi if name == "poissonvi" else network)
    found = Posterior(network, cells).marginal_log_likelihood(2000)
    expected = _integral(network, cells.minibatch(torch.arange(8)))
    np.testing.assert_allclose(found, expected, atol=0.05)


@torch.no_grad()
def _propose_widely(network: Any) -> None:
    """A posterior near the prior, but not the prior: importance weights that vary, though not by much."""
    encoders = [(network.encoder, 0.2, 1.2)]
    if getattr(network, "library_encoder", None) is not None:
        encoders.append((network.library_encoder, None, None))
    for encoder, mean, variance in encoders:
        encoder.mean.weight.mul_(0.1)
        encoder.log_variance.weight.mul_(0.1)
        encoder.mean.bias.fill_(network.library_mean.mean() + 0.1 if mean is None else mean)
        spread = 1.2 * network.library_variance.max() if variance is None else torch.tensor(variance)
        encoder.log_variance.bias.fill_(spread.log())


@torch.no_grad()
def _integral(network: Any, cells: Any) -> np.ndarray:
    """log of the integral of p(x | z, l) p(z) p(l), as a sum over a fine grid of both."""
    z, log_weight = _latent_grid(network)
    n_cells, n_points = len(cells.batch), len(z)
    whole = cells._replace(counts=dense(cells.counts))
    repeated = type(cells)(
        *(None if field is None else field.repeat(n_points, *[1] * (field.ndim - 1)) for field in whole)
    )
    terms = []
    for library, log_library_weight in _library_grid(network, cells):
        p_x = network.decode(z.repeat_interleave(n_cells, 0), library.repeat(n_points, 1), repeated)
        log_p = p_x.log_likelihood(repeated.counts).view(n_points, n_cells)
        terms.append(log_p + log_weight[:, None] + log_library_weight)
    return torch.logsumexp(torch.cat(terms).double(), 0).numpy()


def _latent_grid(network: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of a one-dimensional latent space and the logarithms of their prior weights.

    On the simplex of two archetypes only the difference of both coordinates matters, which is N(0, 2).
    """
    grid, log_weight = _normal_grid(0.1)
    if network.hyperparameters.latent_distribution == "normal":
        return grid[:, None], log_weight
    half = grid / 2**0.5
    return network.latent(torch.stack([half, -half], 1)), log_weight


def _library_grid(network: Any, cells: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    posterior = network.encode(cells)
    if posterior.q_library is None:
        return [(posterior.library, torch.tensor(0.0))]
    p = network.p_library(cells)
    return [(p.loc + p.scale * offset, log_weight) for offset, log_weight in zip(*_normal_grid(0.2), strict=True)]


def _normal_grid(step: float) -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.arange(-6, 6, step)
    return grid, torch.distributions.Normal(0.0, 1.0).log_prob(grid) + np.log(step)


def test_blocks_stay_within_their_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(query, "BLOCK_ENTRIES", 4 * N_GENES * 10)
    network, cells = _fitted("zinb")
    seen = []
    decode = network.expression
    network.expression = lambda z, *more: seen.append(len(z)) or decode(z, *more)
    denoised(Posterior(network, cells))
    assert max(seen) <= 10
    assert sum(seen) == N_CELLS


def _parts(answer: Any) -> list[np.ndarray]:
    return list(answer) if isinstance(answer, list | tuple) else [answer]
