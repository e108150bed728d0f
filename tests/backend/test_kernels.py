"""Law 6: every kernel is its reference, in value and in gradient, wherever counts may take it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.fit import fit
from scvi_pp._backend.kernels import negative_binomial, zero_inflated_negative_binomial
from scvi_pp._backend.kernels.gamma_ratio import log_gamma_ratio
from tests.backend import small

COUNTS = (0, 1, 2, 10, 300, 1e4, 1e5)
MEANS = (1e-8, 1e-4, 0.1, 3, 100, 1e4, 1e6)
DISPERSIONS = (1e-6, 1e-3, 0.05, 1, 30, 1e3, 1e6)
DROPOUT_LOGITS = (-30, -5, 0, 4, 30)

KERNELS = {"negative_binomial": negative_binomial, "zero_inflated_negative_binomial": zero_inflated_negative_binomial}
every_kernel = pytest.mark.parametrize("name", KERNELS)


def extremes(name: str) -> list[Tensor]:
    """Every combination, one a row of (cells, 1) arguments; exact in float32, held in float64."""
    axes = [COUNTS, MEANS, DISPERSIONS, DROPOUT_LOGITS][: 3 if name == "negative_binomial" else 4]
    grid = torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)
    grid[:, 1:3] = grid[:, 1:3].log()
    return [column[:, None] for column in grid.float().double().T]


def value_and_gradients(form: Callable[..., Tensor], arguments: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The value, then its derivative by each argument but the counts, (cells,) each, in float64."""
    counts, *parameters = (argument.to(dtype) for argument in arguments)
    leaves = [parameter.clone().requires_grad_() for parameter in parameters]
    value = form(counts, *leaves)
    value.sum().backward()
    return [value.detach().double(), *(leaf.grad.double()[:, 0] for leaf in leaves)]


def magnitudes(arguments: list[Tensor]) -> list[Tensor]:
    """The terms that cancel in the value and in each derivative: rounding is relative to them."""
    x, log_mean, log_dispersion, *dropout = (argument[:, 0] for argument in arguments)
    theta, u = log_dispersion.exp(), log_mean - log_dispersion
    choices = (torch.lgamma(x + theta) - torch.lgamma(theta)).abs() + torch.lgamma(x + 1)
    spread, pull, push = theta * F.softplus(u), x * torch.sigmoid(-u), theta * torch.sigmoid(u)
    slope = theta * (torch.digamma(x + theta) - torch.digamma(theta))
    value = choices + spread + x * F.softplus(-u)
    if not dropout:
        return [value, pull + push, pull + push + spread + slope]
    return [value + F.softplus(dropout[0].abs()), pull + push, pull + push + spread + slope, torch.ones_like(x)]


@every_kernel
def test_analytic_form_is_the_reference_in_float64(name: str):
    arguments = extremes(name)
    ours = value_and_gradients(KERNELS[name].analytic.log_likelihood, arguments, torch.float64)
    references = value_and_gradients(KERNELS[name].reference.log_likelihood, arguments, torch.float64)
    for found, expected in zip(ours, references, strict=True):
        # automatic differentiation of lgamma itself keeps no more than this
        tolerance = 1e-9 * (1 + arguments[0][:, 0] + expected.abs())
        assert torch.isfinite(found).all()
        assert ((found - expected).abs() <= tolerance).all()


@every_kernel
def test_float32_keeps_six_digits_of_the_terms(name: str):
    arguments = extremes(name)
    form = KERNELS[name].analytic.log_likelihood
    single = value_and_gradients(form, arguments, torch.float32)
    double = value_and_gradients(form, arguments, torch.float64)
    for found, expected, terms in zip(single, double, magnitudes(arguments), strict=True):
        assert torch.isfinite(found).all()
        assert ((found - expected).abs() <= 1e-6 * terms + 1e-30).all()


def test_a_mean_far_above_the_dispersion_still_pulls():
    """x (1 - s) - theta s, where s = mu / (mu + theta) is 1 to float32."""
    x, mean, theta = 100.0, 1e6, 1e-3
    expected = x * theta / (mean + theta) - theta * mean / (mean + theta)
    log_mean = torch.tensor([[mean]]).log().requires_grad_()
    zero_inflated = (torch.tensor([[-30.0]]),)
    for kernel, more in ((negative_binomial, ()), (zero_inflated_negative_binomial, zero_inflated)):
        log_mean.grad = None
        kernel.log_likelihood(torch.tensor([[x]]), log_mean, torch.tensor([theta]).log(), *more).sum().backward()
        assert float(log_mean.grad) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dispersion", [0.05, 1.0, 30.0, 1e3])
def test_negative_binomial_is_scipys(dispersion: float):
    x = np.array([0, 1, 2, 10, 300, 5000])
    for mean in (1e-4, 0.1, 3.0, 100.0, 1e4):
        expected = scipy.stats.nbinom.logpmf(x, dispersion, dispersion / (dispersion + mean))
        log_mean = torch.full((len(x), 1), mean, dtype=torch.float64).log()
        log_dispersion = torch.tensor([dispersion], dtype=torch.float64).log()
        found = negative_binomial.log_likelihood(
            torch.tensor(x, dtype=torch.float64)[:, None], log_mean, log_dispersion
        )
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_zero_inflation_is_the_mixture_it_says():
    x, mean, theta, share = np.array([0, 0, 1, 7]), 2.0, 0.7, np.array([0.1, 0.9, 0.1, 0.9])
    plain = scipy.stats.nbinom.pmf(x, theta, theta / (theta + mean))
    expected = np.log(share * (x == 0) + (1 - share) * plain)
    found = zero_inflated_negative_binomial.log_likelihood(
        torch.tensor(x, dtype=torch.float64)[:, None],
        torch.full((4, 1), math.log(mean), dtype=torch.float64),
        torch.tensor([math.log(theta)], dtype=torch.float64),
        torch.tensor(scipy.special.logit(share))[:, None],
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


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


@pytest.mark.parametrize("per_cell", [False, True], ids=["genes", "cells x genes"])
@every_kernel
def test_gradients_are_those_of_the_values(name: str, per_cell: bool):
    counts, log_mean, log_dispersion, dropout = _sample(per_cell)
    parameters = (log_mean, log_dispersion, *([dropout] if "zero" in name else []))
    for parameter in parameters:
        parameter.requires_grad_()
    assert torch.autograd.gradcheck(lambda *p: KERNELS[name].analytic.log_likelihood(counts, *p), parameters)


@every_kernel
def test_one_dispersion_for_all_cells_is_the_same_dispersion_in_each(name: str):
    counts, log_mean, log_dispersion, dropout = _sample(per_cell=False)
    more = (dropout,) if "zero" in name else ()
    results = []
    for leaf in (log_dispersion.clone(), log_dispersion.expand_as(log_mean).clone()):
        leaf.requires_grad_()
        value = KERNELS[name].analytic.log_likelihood(counts, log_mean, leaf, *more)
        (value * torch.arange(1.0, 5)).sum().backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1].sum(0))


@every_kernel
def test_cells_without_any_count_have_a_value(name: str):
    counts = torch.zeros(3, 4)
    more = (torch.zeros(3, 4),) if "zero" in name else ()
    for log_dispersion in (torch.zeros(4), torch.zeros(3, 4)):
        parameters = [torch.zeros(3, 4, requires_grad=True), log_dispersion.requires_grad_(), *more]
        value = KERNELS[name].analytic.log_likelihood(counts, *parameters)
        value.sum().backward()
        torch.testing.assert_close(value, KERNELS[name].reference.log_likelihood(counts, *parameters))
        assert torch.isfinite(parameters[0].grad).all()


@every_kernel
def test_no_gradient_is_asked_of_fixed_parameters(name: str):
    counts, log_mean, log_dispersion, dropout = _sample(per_cell=False)
    more = (dropout,) if "zero" in name else ()
    assert not KERNELS[name].log_likelihood(counts, log_mean, log_dispersion, *more).requires_grad
    leaf = log_mean.requires_grad_()
    KERNELS[name].log_likelihood(counts, leaf, log_dispersion, *more).sum().backward()
    assert leaf.grad.shape == log_mean.shape


def test_every_kernel_folder_is_tested_here():
    folders = {path.parent.name for path in Path(kernels.__file__).parent.glob("*/reference.py")}
    assert folders == set(KERNELS)


@every_kernel
def test_use_chooses_the_form_for_its_block_alone(name: str, monkeypatch: pytest.MonkeyPatch):
    kernel, asked = KERNELS[name], []
    for form in ("analytic", "reference"):
        monkeypatch.setattr(getattr(kernel, form), "log_likelihood", lambda *_, form=form: asked.append(form))
    arguments = [torch.zeros(1, 1)] * (4 if "zero" in name else 3)
    kernel.log_likelihood(*arguments)
    with kernels.use("reference"):
        kernel.log_likelihood(*arguments)
        with kernels.use("auto"):
            kernel.log_likelihood(*arguments)
    kernel.log_likelihood(*arguments)
    assert asked == ["analytic", "reference", "analytic", "analytic"]


@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_training_with_the_reference_goes_the_same_way(likelihood: str, dispersion: str):
    inputs = small.arrays()
    histories = []
    for form in ("auto", "reference"):
        network = small.network(inputs, gene_likelihood=likelihood, dispersion=dispersion)
        with kernels.use(form):
            outcome = fit(network, small.cells(inputs), small.plan(max_epochs=4))
        histories.append(outcome.history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-4)


def _sample(per_cell: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.poisson(2 * normal(4, 5).exp(), generator=generator)
    counts[0] = 0
    return counts, normal(4, 5), normal(4, 5) if per_cell else normal(5), 2 * normal(4, 5)
