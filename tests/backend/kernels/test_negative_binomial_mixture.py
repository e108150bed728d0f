"""The mixture of background and foreground: against scipy, and every form against the formula in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.kernels import negative_binomial_mixture
from scvi_pp._backend.likelihoods import NegativeBinomialMixture

COUNTS = (0.0, 1.0, 7.0, 300.0, 1e5)
BACKGROUNDS = (1e-4, 0.5, 30.0, 1e4)
FACTORS = (0.0, 0.1, 3.0, 8.0)  # logs
DISPERSIONS = (1e-3, 0.5, 20.0, 1e5)
LOGITS = (-30.0, -2.0, 0.0, 4.0, 30.0)

every_form = pytest.mark.parametrize("form", ["auto", "analytic", "reference"])


def every_combination() -> list[Tensor]:
    """Counts, log background, log factor, log dispersion, logits: (n, 1) each, in float64."""
    grid = torch.tensor(list(itertools.product(COUNTS, BACKGROUNDS, FACTORS, DISPERSIONS, LOGITS)), dtype=torch.float64)
    grid[:, 1], grid[:, 3] = grid[:, 1].log(), grid[:, 3].log()
    return [column[:, None] for column in grid.float().double().T]


def with_gradients(arguments: list[Tensor], dtype: torch.dtype) -> list[np.ndarray]:
    """The value and its gradients by all but the counts."""
    counts, *others = (each.to(dtype) for each in arguments)
    leaves = [each.clone().requires_grad_() for each in others]
    value = negative_binomial_mixture.log_likelihood(counts, *leaves)
    outer = torch.linspace(0.5, 2, value.numel(), dtype=dtype).view(value.shape)
    return [value.detach().numpy(), *(each.numpy() for each in torch.autograd.grad((value * outer).sum(), leaves))]


@every_form
def test_it_is_the_mixture_of_scipys_two(form: str):
    x, theta, background, factor, chance = np.arange(0.0, 40.0, 3), 1.7, 4.0, 5.0, 0.3
    parts = [scipy.stats.nbinom.pmf(x, theta, theta / (theta + mean)) for mean in (background, background * factor)]
    expected = np.log(chance * parts[0] + (1 - chance) * parts[1])
    columns = [np.full(len(x), value) for value in (np.log(background), np.log(factor), np.log(theta))]
    arguments = [x, *columns, np.full(len(x), scipy.special.logit(chance))]
    with kernels.use(form):
        found = negative_binomial_mixture.log_likelihood(*(torch.tensor(each).float()[:, None] for each in arguments))
    np.testing.assert_allclose(found.numpy()[:, 0], expected, rtol=2e-6, atol=2e-6)


@every_form
def test_values_and_gradients_are_those_of_the_formula_at_extremes(form: str):
    arguments = every_combination()
    with kernels.use("reference"):
        expected = with_gradients(arguments, torch.float64)
    with kernels.use(form):
        found = with_gradients(arguments, torch.float32)
    counts, log_background, log_factor, log_theta, logits = (each.numpy() for each in arguments)
    # what is added up: counts and dispersions times logs of odds, and log-gammas; float32 keeps seven digits of it. By so
    # much the log odds of background are off, and where both are as likely, a gradient moves from one to the other
    odds, slopes = np.abs(log_background - log_theta) + log_factor, counts + np.exp(log_theta)
    terms = 1 + slopes * (1 + odds) + counts * np.log1p(counts) + np.abs(logits)
    chance = scipy.special.expit(logits)
    share = expected[4] / np.linspace(0.5, 2, len(chance))[:, None] + chance  # that the count is background
    of_gradients = 1 + slopes * (1 + odds) * (1 + share * (1 - share) * terms)
    for name, value, truth in zip(
        ("value", "background", "factor", "dispersion", "logits"), found, expected, strict=True
    ):
        assert np.isfinite(value).all()
        allowed = 1e-6 * (terms if name == "value" else of_gradients)
        assert (np.abs(value - truth) <= allowed).all(), name


@every_form
def test_one_dispersion_of_a_protein_gathers_the_gradients_of_its_cells(form: str):
    random = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((9, 4), 5.0), generator=random)
    others = [torch.randn(9, 4, generator=random) for _ in range(3)]
    shared = torch.randn(4, generator=random)
    with kernels.use(form):
        once = with_gradients([counts, others[0], others[1].abs(), shared, others[2]], torch.float32)
        each = with_gradients([counts, others[0], others[1].abs(), shared.expand(9, 4), others[2]], torch.float32)
    np.testing.assert_allclose(once[0], each[0], rtol=1e-6)
    np.testing.assert_allclose(once[3], each[3].sum(0), rtol=1e-5, atol=1e-5)


def test_machine_code_lets_what_is_no_number_be_seen():
    arguments = [torch.ones(3, 2) for _ in range(5)]
    arguments[1][1, 0] = torch.nan
    with kernels.use("auto"):
        found = negative_binomial_mixture.log_likelihood(*arguments)
    assert torch.isnan(found).sum() == 1
    assert torch.isnan(found[1, 0])


def test_a_likelihood_of_proteins_is_asked_of_the_kernel():
    background, factor, theta, logits = (torch.full((2, 3), value) for value in (0.5, 1.0, 0.2, -1.0))
    counts = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 50.0]])
    expected = negative_binomial_mixture.log_likelihood(counts, background, factor, theta, logits)
    likelihood = NegativeBinomialMixture(background, factor, theta, logits)
    assert torch.equal(likelihood.log_likelihood_of_each(counts), expected)
    assert torch.equal(likelihood.log_likelihood(counts), expected.sum(1))
