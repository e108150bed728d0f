"""The likelihoods as an accelerator computes them: their reference everywhere, and no word to the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from scvi_pp import settings
from scvi_pp._backend import kernels
from scvi_pp._backend.kernels import tile_likelihood
from scvi_pp._backend.kernels.negative_binomial import cuda as negative_binomial
from scvi_pp._backend.kernels.poisson import cuda as poisson
from scvi_pp._backend.kernels.zero_inflated_negative_binomial import cuda as zero_inflated_negative_binomial
from scvi_pp._backend.sparse import SparseRows
from tests.backend.kernels.extremes import KERNELS, extremes, magnitudes, rounding, value_and_gradients
from tests.cuda.without_host import asks_nothing_of_the_host

ON_DEVICE = {
    "poisson": poisson,
    "negative_binomial": negative_binomial,
    "zero_inflated_negative_binomial": zero_inflated_negative_binomial,
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
every_kernel = pytest.mark.parametrize("name", KERNELS)
dispersions = pytest.mark.parametrize("per_cell", [False, True], ids=["genes", "cells x genes"])


def plain(name: str) -> Callable[..., Tensor]:
    """What takes the place of Triton."""
    return partial(tile_likelihood.log_likelihood, None, ON_DEVICE[name].dense)


def sample(name: str, *, per_cell: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    """Counts, one cell without any, and the parameters they need."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.poisson(2 * normal(4, 5).exp(), generator=generator)
    counts[0] = 0
    parameters = [normal(4, 5), normal(4, 5) if per_cell else normal(5), 2 * normal(4, 5)]
    n = 1 + len([form for form in ("negative", "zero") if form in name])
    return counts.to(DEVICE, dtype), [parameter.to(DEVICE, dtype) for parameter in parameters[:n]]


@every_kernel
def test_the_plain_form_is_the_reference_in_float64(name: str):
    arguments = [column[:, None].to(DEVICE) for column in extremes(name)]
    ours = value_and_gradients(plain(name), arguments, torch.float64)
    references = value_and_gradients(KERNELS[name].reference.log_likelihood, arguments, torch.float64)
    for found, expected in zip(ours, references, strict=True):
        assert torch.isfinite(found).all()
        # automatic differentiation of lgamma itself keeps no more than this
        tolerance = 1e-9 * (1 + arguments[0].view_as(found) + expected.abs())
        assert ((found - expected).abs() <= tolerance).all()


@every_kernel
def test_float32_keeps_what_rounding_leaves_of_the_terms(name: str):
    arguments = [column.reshape(7, -1).to(DEVICE) for column in extremes(name)]
    found = value_and_gradients(plain(name), arguments, torch.float32)
    expected = value_and_gradients(KERNELS[name].analytic.log_likelihood, arguments, torch.float64)
    bounds = [terms * share for terms, share in zip(magnitudes(arguments), rounding(arguments), strict=True)]
    bounds[0] = bounds[0].sum(1)
    for ours, truth, bound in zip(found, expected, bounds, strict=True):
        assert torch.isfinite(ours).all()
        assert ((ours - truth).abs() <= bound + 1e-30).all(), float(((ours - truth).abs() / bound).max())


@dispersions
@every_kernel
def test_gradients_are_those_of_the_values(name: str, per_cell: bool):
    counts, parameters = sample(name, per_cell=per_cell)
    for parameter in parameters:
        parameter.requires_grad_()
    assert torch.autograd.gradcheck(lambda *p: plain(name)(counts, *p), parameters)


@dispersions
@every_kernel
def test_an_outer_gradient_of_each_cell_passes_through(name: str, per_cell: bool):
    counts, parameters = sample(name, per_cell=per_cell)
    gradients = []
    for form in (plain(name), KERNELS[name].analytic.log_likelihood):
        leaves = [parameter.clone().requires_grad_() for parameter in parameters]
        (form(counts, *leaves) * torch.arange(4, device=DEVICE)).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*gradients)


@every_kernel
def test_the_form_for_a_device_takes_sparse_and_whole_counts(name: str):
    counts, parameters = sample(name, per_cell=False, dtype=torch.float32)
    found = [ON_DEVICE[name].log_likelihood(form(counts), *parameters) for form in (Tensor.int, SparseRows.of)]
    expected = KERNELS[name].reference.log_likelihood(counts, *parameters)
    for value in found:
        torch.testing.assert_close(value, expected)


@every_kernel
def test_gradients_are_given_only_where_they_are_wanted(name: str):
    counts, parameters = sample(name, per_cell=False)
    assert not plain(name)(counts, *parameters).requires_grad
    last = parameters[-1].requires_grad_()
    plain(name)(counts, *parameters).sum().backward()
    assert last.grad is not None
    assert all(parameter.grad is None for parameter in parameters[:-1])


@pytest.mark.parametrize("place", ["counts", "parameters"])
@every_kernel
def test_what_is_not_a_number_stays_none(name: str, place: str):
    counts, parameters = sample(name, per_cell=False, dtype=torch.float32)
    (counts if place == "counts" else parameters[0])[2, 3] = torch.nan
    leaves = [parameter.requires_grad_() for parameter in parameters]
    value = plain(name)(counts, *leaves)
    value.sum().backward()
    assert torch.isnan(value).nonzero().tolist() == [[2]]
    assert torch.isnan(leaves[0].grad[2, 3])


@every_kernel
def test_the_host_is_asked_nothing(name: str):
    counts, parameters = sample(name, per_cell=False, dtype=torch.float32)
    leaves = [parameter.requires_grad_() for parameter in parameters]
    with asks_nothing_of_the_host():
        plain(name)(counts, *leaves).sum().backward()


def test_what_asks_the_host_is_noticed():
    counts, parameters = sample("negative_binomial", per_cell=False)
    with pytest.raises(AssertionError, match="nonzero waits"), asks_nothing_of_the_host():
        KERNELS["negative_binomial"].analytic.log_likelihood(counts, *parameters)
    for asking in (lambda x: x.sum().item(), lambda x: x[x > 0]):
        with pytest.raises(AssertionError), asks_nothing_of_the_host():
            asking(counts)


def test_where_triton_fails_the_plain_form_is_taken_and_one_line_says_so(capsys: pytest.CaptureFixture[str]):
    tries = []

    def broken() -> Any:
        tries.append(1)
        raise RuntimeError("Failed to find C compiler\nand more")

    with settings.override(verbosity=3):
        found = [tile_likelihood.working(broken, poisson.dense, 1, DEVICE) for _ in range(3)]
    assert found == [None] * 3
    assert len(tries) == 1
    assert capsys.readouterr().err.count("Failed to find C compiler") == 1


def test_triton_is_for_float32_on_a_cuda_device_alone(monkeypatch: pytest.MonkeyPatch):
    class Elsewhere:
        def __init__(self, kind: str, dtype: torch.dtype) -> None:
            self.device, self.dtype = torch.device(kind), dtype

    monkeypatch.setattr(tile_likelihood, "working", lambda *_: "triton")
    for kind, dtype, choice, expected in (
        ("cuda", torch.float32, "auto", "triton"),
        ("cuda", torch.float64, "auto", "plain"),
        ("cuda", torch.float32, "analytic", "plain"),
        ("mps", torch.float32, "auto", "plain"),
        ("cpu", torch.float32, "auto", "plain"),
    ):
        with kernels.use(choice):
            assert tile_likelihood.fastest(None, "plain", Elsewhere(kind, dtype)) == expected
