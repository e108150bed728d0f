"""The likelihoods of counts are what they say: against scipy and against fifty digits, which share no function with us."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from scvi_pp._backend import kernels
from scvi_pp._backend.kernels import negative_binomial, poisson, zero_inflated_negative_binomial
from scvi_pp._backend.kernels.gamma_ratio import log_gamma_ratio
from tests.backend.kernels.extremes import COUNTS, DISPERSIONS, magnitudes

# type and form -> the error that is allowed of the value, and of the terms that cancel in it
PRECISION = {
    "float64": (torch.float64, "auto", 1e-8, 1e-9),
    "float32, analytic": (torch.float32, "analytic", 1e-6, 5e-7),
    "float32, compiled": (torch.float32, "auto", 1e-6, 5e-7),
}
every_precision = pytest.mark.parametrize("precision", PRECISION)


def test_a_mean_far_above_the_dispersion_still_pulls():
    """x (1 - s) - theta s, where s = mu / (mu + theta) is 1 to float32."""
    x, mean, theta = 100.0, 1e6, 1e-3
    expected = x * theta / (mean + theta) - theta * mean / (mean + theta)
    log_mean = torch.tensor([[mean]]).log().requires_grad_()
    zero_inflated = (torch.tensor([[-30.0]]),)
    for form in ("analytic", "auto"):
        for kernel, more in ((negative_binomial, ()), (zero_inflated_negative_binomial, zero_inflated)):
            log_mean.grad = None
            with kernels.use(form):
                value = kernel.log_likelihood(torch.tensor([[x]]), log_mean, torch.tensor([theta]).log(), *more)
            value.sum().backward()
            assert float(log_mean.grad) == pytest.approx(expected, rel=1e-5)


@every_precision
@pytest.mark.parametrize("dispersion", [0.05, 1.0, 30.0, 1e3])
def test_negative_binomial_is_scipys(dispersion: float, precision: str):
    dtype, form, rtol, atol = PRECISION[precision]
    x = np.array([0, 1, 2, 10, 300, 5000])
    for mean in (1e-4, 0.1, 3.0, 100.0, 1e4):
        expected = scipy.stats.nbinom.logpmf(x, dispersion, dispersion / (dispersion + mean))
        log_mean = torch.full((len(x), 1), mean, dtype=dtype).log()
        log_dispersion = torch.full((len(x), 1), dispersion, dtype=dtype).log()
        arguments = [torch.tensor(x, dtype=dtype)[:, None], log_mean, log_dispersion]
        with kernels.use(form):
            found = negative_binomial.log_likelihood(*arguments)
        terms = magnitudes([argument[:, 0].double() for argument in arguments])[0].numpy()
        assert (np.abs(found.numpy() - expected) <= rtol * np.abs(expected) + atol * (1 + terms)).all()


@every_precision
def test_poisson_is_scipys(precision: str):
    dtype, form, rtol, atol = PRECISION[precision]
    x = np.array([0, 1, 2, 10, 300, 5000])
    for mean in (1e-4, 0.1, 3.0, 100.0, 1e4):
        expected = scipy.stats.poisson.logpmf(x, mean)
        log_mean = torch.full((len(x), 1), mean, dtype=dtype).log()
        with kernels.use(form):
            found = poisson.log_likelihood(torch.tensor(x, dtype=dtype)[:, None], log_mean)
        terms = mean + x * abs(math.log(mean)) + scipy.special.gammaln(x + 1)
        assert (np.abs(found.numpy() - expected) <= rtol * np.abs(expected) + atol * (1 + terms)).all()


@every_precision
def test_zero_inflation_is_the_mixture_it_says(precision: str):
    dtype, form, rtol, atol = PRECISION[precision]
    x, mean, theta, share = np.array([0, 0, 1, 7]), 2.0, 0.7, np.array([0.1, 0.9, 0.1, 0.9])
    plain = scipy.stats.nbinom.pmf(x, theta, theta / (theta + mean))
    expected = np.log(share * (x == 0) + (1 - share) * plain)
    with kernels.use(form):
        found = zero_inflated_negative_binomial.log_likelihood(
            torch.tensor(x, dtype=dtype)[:, None],
            torch.full((4, 1), math.log(mean), dtype=dtype),
            torch.tensor([math.log(theta)], dtype=dtype),
            torch.tensor(scipy.special.logit(share), dtype=dtype)[:, None],
        )
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@every_precision
@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_counts_that_are_not_whole_have_the_density_of_the_formula(name: str, precision: str):
    dtype, form, rtol, atol = PRECISION[precision]
    x, mean, theta, kept = np.array([0.0, 0.25, 1.5, 33.3]), 2.0, 0.7, 0.6
    if name == "poisson":
        expected = x * np.log(mean) - mean - scipy.special.gammaln(x + 1)
    else:
        choices = scipy.special.gammaln(x + theta) - scipy.special.gammaln(theta) - scipy.special.gammaln(x + 1)
        expected = choices + theta * np.log(theta / (theta + mean)) + x * np.log(mean / (theta + mean))
    if name == "zinb":
        expected = np.log((1 - kept) * (x == 0) + kept * np.exp(expected))
    column = torch.full((4, 1), math.log(mean), dtype=dtype)
    shared = torch.tensor([math.log(theta)], dtype=dtype)
    arguments = {
        "poisson": (poisson, ()),
        "nb": (negative_binomial, (shared,)),
        "zinb": (zero_inflated_negative_binomial, (shared, torch.full((4, 1), math.log(1 / kept - 1), dtype=dtype))),
    }
    kernel, more = arguments[name]
    with kernels.use(form):
        found = kernel.log_likelihood(torch.tensor(x, dtype=dtype)[:, None], column, *more)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dispersion", [1e-6, 0.05, 1.0, 1e3, 1e6])
def test_negative_binomial_is_right_to_nine_digits(dispersion: float):
    """Against fifty digits: the reference shares the functions of torch, this does not."""
    mpmath = pytest.importorskip("mpmath")  # torch brings it, through sympy
    with mpmath.workdps(50):
        for x, mean in itertools.product((0, 1, 10, 1e5), (1e-8, 0.1, 100.0, 1e6)):
            log_mean = torch.tensor([[mean]], dtype=torch.float64).log().requires_grad_()
            log_dispersion = torch.tensor([dispersion], dtype=torch.float64).log().requires_grad_()
            value = negative_binomial.log_likelihood(torch.tensor([[x]], dtype=torch.float64), log_mean, log_dispersion)
            value.sum().backward()
            mu, theta = (mpmath.exp(mpmath.mpf(float(v.detach()))) for v in (log_mean, log_dispersion))
            share = mu / (mu + theta)
            expected = _log_probability(mpmath, x, mu, theta)
            assert float(value.detach()) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)
            assert float(log_mean.grad) == pytest.approx(float(x * (1 - share) - theta * share), rel=1e-9, abs=1e-12)
            gain = mpmath.digamma(x + theta) - mpmath.digamma(theta) + share - mpmath.log1p(mu / theta)
            expected = float(theta * gain - x * (1 - share))
            assert float(log_dispersion.grad) == pytest.approx(expected, rel=1e-7, abs=1e-9 * (1 + x))


def _log_probability(mpmath: Any, x: float, mu: Any, theta: Any) -> Any:
    choices = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
    return choices - theta * mpmath.log1p(mu / theta) - x * mpmath.log1p(theta / mu)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-9)])
def test_gamma_ratio_and_its_slope_are_right_to_the_precision_of_the_type(dtype: torch.dtype, tolerance: float):
    mpmath = pytest.importorskip("mpmath")
    grid = torch.tensor(list(itertools.product(DISPERSIONS, COUNTS[1:])), dtype=torch.float32)
    value, slope = log_gamma_ratio(*grid.to(dtype).T)
    with mpmath.workdps(50):
        for (theta, x), found, found_slope in zip(grid.tolist(), value.tolist(), slope.tolist(), strict=True):
            expected = float(mpmath.loggamma(mpmath.mpf(theta) + x) - mpmath.loggamma(theta))
            assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
            expected = float(mpmath.digamma(mpmath.mpf(theta) + x) - mpmath.digamma(theta))
            assert found_slope == pytest.approx(expected, rel=max(tolerance, 1e-7))


def test_gamma_ratio_of_no_count_is_nothing():
    value, slope = log_gamma_ratio(torch.tensor(DISPERSIONS), torch.zeros(len(DISPERSIONS)))
    assert not value.any()
    assert not slope.any()
