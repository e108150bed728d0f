"""What every form of every likelihood of counts keeps to, whatever the rows: empty ones, full ones, and what is NaN."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.crew import crew, working_together
from scvi_pp._backend.kernels import row_likelihood
from scvi_pp._backend.sparse import SparseRows
from tests.backend.kernels.extremes import ARGUMENTS, KERNELS, N_ARGUMENTS, value_and_gradients

FORMS = {"analytic": "analytic", "compiled": "auto"}
N_CELLS, N_GENES = 5, 37
OUTER = torch.arange(1.0, N_CELLS + 1)

every_kernel = pytest.mark.parametrize("name", KERNELS)
dispersed = pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_negative_binomial"])
every_form = pytest.mark.parametrize("form", FORMS)
every_counts = pytest.mark.parametrize("counts_as", [lambda x: x, SparseRows.of], ids=["dense", "sparse"])
every_dispersion = pytest.mark.parametrize("per_cell", [False, True], ids=["genes", "cells x genes"])


def sample(name: str, *, per_cell: bool, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """A row without counts, one without zeros, one of fractions, one with a single count, and an ordinary one."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).float().to(dtype)

    counts = torch.poisson(2 * normal(N_CELLS, N_GENES).exp(), generator=generator)
    counts[0] = 0
    counts[1] += 1
    counts[2] *= 0.25
    counts[3] = 0
    counts[3, N_GENES - 1] = 4
    log_dispersion = normal(N_CELLS, N_GENES) if per_cell else normal(N_GENES)
    return [counts, normal(N_CELLS, N_GENES), log_dispersion, 2 * normal(N_CELLS, N_GENES)][: N_ARGUMENTS[name]]


@every_dispersion
@every_counts
@every_form
@every_kernel
def test_every_kind_of_row_is_that_of_the_reference(
    name: str, form: str, counts_as: Callable[[Tensor], Any], per_cell: bool
):
    arguments = sample(name, per_cell=per_cell)

    def weighted(form_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda counts, *parameters: form_of(counts, *parameters) * OUTER

    with kernels.use(FORMS[form]):
        found = value_and_gradients(
            weighted(KERNELS[name].log_likelihood), arguments, torch.float32, counts_as=counts_as
        )
    expected = value_and_gradients(weighted(KERNELS[name].reference.log_likelihood), arguments, torch.float64)
    for ours, truth, argument in zip(found[1:], expected[1:], arguments[1:], strict=True):
        assert ours.shape == truth.shape == argument.shape
        torch.testing.assert_close(ours, truth, rtol=2e-6, atol=1e-5)
    # a sum of 37 terms in float32, of which some cancel: eight units in its last place
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-4)


@every_dispersion
@every_kernel
def test_gradients_are_those_of_the_values(name: str, per_cell: bool):
    counts, *parameters = sample(name, per_cell=per_cell)
    parameters = [parameter[..., ::5].clone().requires_grad_() for parameter in parameters]
    assert torch.autograd.gradcheck(
        lambda *p: KERNELS[name].analytic.log_likelihood(counts[:, ::5].clone(), *p), parameters
    )


@every_form
@dispersed
def test_one_dispersion_for_all_cells_is_the_same_dispersion_in_each(name: str, form: str):
    counts, log_mean, log_dispersion, *more = sample(name, per_cell=False, dtype=torch.float32)
    results = []
    for leaf in (log_dispersion.clone(), log_dispersion.expand_as(log_mean).clone()):
        leaf.requires_grad_()
        with kernels.use(FORMS[form]):
            value = KERNELS[name].log_likelihood(counts, log_mean, leaf, *more)
        (value * OUTER).sum().backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1].sum(0), rtol=1e-5, atol=1e-5)


@every_dispersion
@every_form
@every_kernel
def test_a_cell_alone_is_what_it_is_among_others(name: str, form: str, per_cell: bool):
    arguments = sample(name, per_cell=per_cell, dtype=torch.float32)
    with kernels.use(FORMS[form]):
        together = KERNELS[name].log_likelihood(*arguments)
        for cell in range(N_CELLS):
            alone = [argument[cell : cell + 1] if argument.ndim == 2 else argument for argument in arguments]
            torch.testing.assert_close(KERNELS[name].log_likelihood(*alone)[0], together[cell])


# ---- what is not a number


@pytest.mark.parametrize("at", [0, 1], ids=["at a zero", "at a count"])
@every_counts
@every_form
@every_kernel
def test_nan_in_any_argument_is_nan_in_its_cell_and_in_no_other(
    name: str, form: str, counts_as: Callable[[Tensor], Any], at: int
):
    for which in range(N_ARGUMENTS[name]):
        arguments = sample(name, per_cell=True, dtype=torch.float32)
        arguments[0][4, :2] = torch.tensor([0.0, 3.0])
        arguments[which][4, at] = torch.nan
        leaves = [argument.requires_grad_() for argument in arguments[1:]]
        with kernels.use(FORMS[form]):
            value = KERNELS[name].log_likelihood(counts_as(arguments[0]), *leaves)
        assert torch.isnan(value).tolist() == [False] * 4 + [True], ARGUMENTS[which]
        value.sum().backward()
        assert all(torch.isfinite(leaf.grad[:4]).all() for leaf in leaves)
        if which > 0:
            assert torch.isnan(leaves[which - 1].grad[4, at])


@every_form
@dispersed
def test_nan_in_a_dispersion_of_all_cells_is_nan_in_all_cells(name: str, form: str):
    arguments = sample(name, per_cell=False, dtype=torch.float32)
    arguments[2][7] = torch.nan
    with kernels.use(FORMS[form]):
        assert torch.isnan(KERNELS[name].log_likelihood(*arguments)).all()


@every_form
@every_kernel
def test_a_mean_beyond_all_numbers_is_no_finite_value(name: str, form: str):
    """So that a run that went wrong is seen to have gone wrong, whether the count there is a zero or not."""
    for at in (0, 1):
        arguments = sample(name, per_cell=False, dtype=torch.float32)[:3]
        arguments[0][4, :2] = torch.tensor([0.0, 3.0])
        arguments[1][4, at] = torch.inf
        nothing_lost = [torch.full((N_CELLS, N_GENES), -torch.inf)] if name.startswith("zero") else []
        with kernels.use(FORMS[form]):
            value = KERNELS[name].log_likelihood(*arguments, *nothing_lost)
        assert not torch.isfinite(value[4])


# ---- what is asked for, and what is left alone


@every_form
@every_kernel
def test_no_gradient_is_asked_of_fixed_parameters(name: str, form: str):
    counts, log_mean, *more = sample(name, per_cell=False, dtype=torch.float32)
    with kernels.use(FORMS[form]):
        assert not KERNELS[name].log_likelihood(counts, log_mean, *more).requires_grad
        leaf = log_mean.requires_grad_()
        KERNELS[name].log_likelihood(counts, leaf, *more).sum().backward()
        with torch.inference_mode():
            value = KERNELS[name].log_likelihood(counts, leaf, *more)
    assert leaf.grad.shape == log_mean.shape
    assert all(argument.grad is None for argument in more)
    assert value.is_inference()


@every_counts
@every_form
@every_kernel
def test_arguments_are_left_as_they_are_and_may_lie_in_memory_in_any_way(
    name: str, form: str, counts_as: Callable[[Tensor], Any]
):
    arguments = sample(name, per_cell=True, dtype=torch.float32)
    before = [argument.clone() for argument in arguments]
    turned = [argument.t().contiguous().t() for argument in arguments]
    with kernels.use(FORMS[form]):
        value = KERNELS[name].log_likelihood(counts_as(arguments[0]), *arguments[1:])
        again = KERNELS[name].log_likelihood(counts_as(turned[0]), *turned[1:])
    torch.testing.assert_close(again, value)
    assert all(torch.equal(argument, old) for argument, old in zip(arguments, before, strict=True))


@every_form
@every_kernel
def test_backward_may_run_twice(name: str, form: str):
    counts, *parameters = sample(name, per_cell=False, dtype=torch.float32)
    leaves = [parameter.requires_grad_() for parameter in parameters]
    with kernels.use(FORMS[form]):
        value = KERNELS[name].log_likelihood(counts, *leaves)
    first = torch.autograd.grad(value, leaves, OUTER, retain_graph=True)
    second = torch.autograd.grad(value, leaves, OUTER)
    assert all(torch.equal(once, again) for once, again in zip(first, second, strict=True))


@pytest.mark.parametrize("n_threads", [2, 3])
@every_dispersion
@every_kernel
def test_threads_that_share_the_cells_change_nothing(
    name: str, per_cell: bool, n_threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n_threads)
    arguments = sample(name, per_cell=per_cell)
    alone = value_and_gradients(KERNELS[name].log_likelihood, arguments, torch.float32)
    with working_together(1000):
        assert crew().n == n_threads
        shared = value_and_gradients(KERNELS[name].log_likelihood, arguments, torch.float32)
    assert all(torch.equal(once, again) for once, again in zip(alone, shared, strict=True))


@every_kernel
def test_what_a_step_has_worked_with_is_freed_with_its_value(name: str):
    """At once, not when the collector of cycles comes: a step works with two to three arrays of cells x genes."""
    counts, *parameters = sample(name, per_cell=False, dtype=torch.float32)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            leaves = [parameter.clone().requires_grad_() for parameter in parameters]
            KERNELS[name].log_likelihood(counts, *leaves).sum().backward()
        assert sum(type(thing) is row_likelihood.Work for thing in gc.get_objects()) == 0
    finally:
        gc.enable()
