"""Each likelihood is a distribution: it sums to one, and its draws have the moments it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from scvi_pp._backend.device import private_random
from scvi_pp._backend.likelihoods import (
    LARGEST_RATE,
    Bernoulli,
    Gaussian,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from tests.backend import small

MEAN, DISPERSION, DROPOUT_LOGIT = 4.0, 1.5, -0.5
KEPT = 1 / (1 + math.exp(DROPOUT_LOGIT))
N_DRAWS = 40_000


def filled(value: float, shape: tuple[int, ...] = (1, 1)) -> torch.Tensor:
    return torch.full(shape, float(value))


def poisson(n: int = 1) -> Poisson:
    return Poisson(filled(math.log(MEAN), (n, 1)))


def negative_binomial(n: int = 1) -> NegativeBinomial:
    return NegativeBinomial(filled(math.log(MEAN), (n, 1)), filled(math.log(DISPERSION), (1,)))


def zero_inflated(n: int = 1) -> ZeroInflatedNegativeBinomial:
    of_nb = negative_binomial(n)
    return ZeroInflatedNegativeBinomial(of_nb.log_mean, of_nb.log_dispersion, filled(DROPOUT_LOGIT, (n, 1)))


def gaussian(n: int = 1) -> Gaussian:
    return Gaussian(filled(math.log(MEAN), (n, 1)), filled(math.log(0.3), (1,)))


OVERDISPERSED = MEAN + MEAN**2 / DISPERSION
# likelihood -> mean and variance of its draws
MOMENTS: dict[str, tuple[Callable[[int], Any], float, float]] = {
    "poisson": (poisson, MEAN, MEAN),
    "nb": (negative_binomial, MEAN, OVERDISPERSED),
    "zinb": (zero_inflated, KEPT * MEAN, KEPT * OVERDISPERSED + KEPT * (1 - KEPT) * MEAN**2),
    "normal": (gaussian, MEAN, 0.3**2),
}
every_likelihood = pytest.mark.parametrize("name", MOMENTS)


@every_likelihood
def test_draws_have_the_mean_and_variance_of_the_likelihood(name: str):
    make, mean, variance = MOMENTS[name]
    with private_random(small.CPU, 0):
        draws = make(N_DRAWS).sample().double()
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / N_DRAWS))
    assert float(draws.var()) == pytest.approx(variance, rel=0.05)
    assert float(make(1).mean) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_draws_are_counts_as_frequent_as_they_are_probable(name: str):
    make = MOMENTS[name][0]
    counts = torch.arange(8.0)[:, None]
    probability = make(8).log_likelihood(counts).exp().numpy()
    with private_random(small.CPU, 1):
        draws = make(N_DRAWS).sample()
    assert torch.equal(draws, draws.round())
    frequency = np.array([float((draws == count).double().mean()) for count in counts])
    np.testing.assert_allclose(frequency, probability, atol=4 * math.sqrt(0.25 / N_DRAWS))


@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_probabilities_sum_to_one(name: str):
    n = 400
    total = MOMENTS[name][0](n).log_likelihood(torch.arange(float(n))[:, None]).double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


def test_poisson_is_scipys():
    counts = np.array([0, 1, 3, 50])
    expected = scipy.stats.poisson.logpmf(counts, MEAN)
    np.testing.assert_allclose(poisson(4).log_likelihood(torch.tensor(counts)[:, None]), expected, rtol=1e-5)


def test_gaussian_is_scipys():
    values = np.array([-1.0, 0.0, 4.0, 5.5])
    expected = scipy.stats.norm.logpdf(values, MEAN, 0.3)
    np.testing.assert_allclose(gaussian(4).log_likelihood(torch.tensor(values)[:, None]), expected, rtol=1e-5)


@every_likelihood
def test_genes_are_independent_given_the_cell(name: str):
    one = MOMENTS[name][0](1).log_likelihood(torch.tensor([[3.0]]))
    both = MOMENTS[name][0](1)
    wide = type(both)(*(torch.cat([part, part], dim=-1) for part in vars(both).values()))
    torch.testing.assert_close(wide.log_likelihood(torch.tensor([[3.0, 3.0]])), 2 * one)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("poisson", {"mean": MEAN}),
        ("nb", {"mean": MEAN, "dispersion": DISPERSION}),
        ("zinb", {"mean": MEAN, "dispersion": DISPERSION, "dropout": 1 - KEPT}),
        ("normal", {"mean": MEAN, "standard_deviation": 0.3}),
    ],
)
def test_parameters_are_named_and_given_for_every_cell(name: str, expected: dict[str, float]):
    parameters = MOMENTS[name][0](3).parameters()
    assert parameters.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(parameters[key], filled(value, (3, 1)))


@pytest.mark.parametrize("name", ["nb", "zinb"])
def test_denoised_draws_are_gamma_distributed_before_anything_is_lost(name: str):
    with private_random(small.CPU, 2):
        draws = MOMENTS[name][0](N_DRAWS).sample_denoised().double()
    assert float(draws.mean()) == pytest.approx(MEAN, rel=0.03)
    assert float(draws.var()) == pytest.approx(MEAN**2 / DISPERSION, rel=0.06)


def test_denoised_draws_of_poisson_are_its_mean():
    torch.testing.assert_close(poisson(2).sample_denoised(), filled(MEAN, (2, 1)))


@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_absurd_means_can_still_be_drawn_from(name: str):
    make = MOMENTS[name][0](2)
    enormous = type(make)(*(part + 80 if key == "log_mean" else part for key, part in vars(make).items()))
    with private_random(small.CPU, 0):
        draws = enormous.sample()
    assert torch.isfinite(draws).all()
    assert float(draws.max()) <= 2 * LARGEST_RATE


def test_dispersion_may_differ_between_cells():
    log_mean = filled(math.log(MEAN), (2, 1))
    each = NegativeBinomial(log_mean, torch.tensor([[0.5], [5.0]]).log())
    counts = filled(2, (2, 1))
    for row, dispersion in enumerate((0.5, 5.0)):
        alone = NegativeBinomial(log_mean[:1], torch.tensor([dispersion]).log())
        torch.testing.assert_close(each.log_likelihood(counts)[row], alone.log_likelihood(counts[:1])[0])


# ---- open or closed

REGION, CELL, FACTOR = 0.8, -0.4, 1.2  # logits
FACTORS: dict[str, tuple[float | None, float | None]] = {
    "both factors": (CELL, FACTOR),
    "no cell factor": (None, FACTOR),
    "no region factor": (CELL, None),
    "no factors": (None, None),
}
every_factor = pytest.mark.parametrize("factors", FACTORS)


def bernoulli(factors: str, n_cells: int = 1, n_regions: int = 1) -> Bernoulli:
    cell, factor = FACTORS[factors]
    return Bernoulli(
        filled(REGION, (n_cells, n_regions)),
        None if cell is None else filled(cell, (n_cells, 1)),
        None if factor is None else filled(factor, (n_regions,)),
    )


def chance(factors: str) -> float:
    logits = [REGION, *(logit for logit in FACTORS[factors] if logit is not None)]
    return math.prod(1 / (1 + math.exp(-logit)) for logit in logits)


@every_factor
def test_a_region_is_open_as_often_as_all_that_it_takes_is_there(factors: str):
    p = chance(factors)
    with private_random(small.CPU, 0):
        draws = bernoulli(factors, N_DRAWS).sample().double()
    assert set(draws.unique().tolist()) == {0, 1}
    assert float(draws.mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / N_DRAWS))
    torch.testing.assert_close(bernoulli(factors, 3, 2).mean, filled(p, (3, 2)))


@every_factor
def test_open_and_closed_are_as_likely_as_they_are_probable(factors: str):
    open_and_closed = bernoulli(factors, 2).log_likelihood(torch.tensor([[1.0], [0.0]])).double()
    expected = scipy.stats.bernoulli.logpmf([1, 0], chance(factors))
    np.testing.assert_allclose(open_and_closed, expected, rtol=1e-5)
    assert float(open_and_closed.exp().sum()) == pytest.approx(1, abs=1e-6)


@every_factor
def test_any_number_of_fragments_is_open(factors: str):
    likelihood = bernoulli(factors, 3)
    found = likelihood.log_likelihood(torch.tensor([[1.0], [2.0], [300.0]]))
    assert (found == found[0]).all()


def test_regions_are_independent_given_the_cell():
    counts = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    logits = torch.tensor([[0.3, -2.0, 1.0], [4.0, 0.1, -0.7]])
    cell, factor = torch.tensor([[1.0], [-0.5]]), torch.tensor([0.2, 2.0, -1.0])
    whole = Bernoulli(logits, cell, factor).log_likelihood(counts)
    alone = [
        Bernoulli(logits[:, [j]], cell, factor[[j]]).log_likelihood(counts[:, [j]]) for j in range(logits.shape[1])
    ]
    torch.testing.assert_close(whole, torch.stack(alone).sum(0))


@every_factor
def test_the_probability_is_all_there_is_of_an_open_region(factors: str):
    likelihood = bernoulli(factors, 3)
    assert likelihood.parameters().keys() == {"probability"}
    torch.testing.assert_close(likelihood.parameters()["probability"], filled(chance(factors), (3, 1)))
    assert torch.equal(likelihood.sample_denoised(), likelihood.mean)
