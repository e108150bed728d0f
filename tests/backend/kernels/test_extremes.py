"""Law 6: every likelihood of counts is its reference, in value and in gradient, wherever counts may take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.sparse import SparseRows
from tests.backend.kernels.extremes import KERNELS, extremes, magnitudes, rounding, value_and_gradients

FORMS = {"analytic": "analytic", "compiled": "auto"}

every_kernel = pytest.mark.parametrize("name", KERNELS)
every_form = pytest.mark.parametrize("form", FORMS)
every_counts = pytest.mark.parametrize("counts_as", [lambda x: x, SparseRows.of], ids=["dense", "sparse"])
# one gene goes through what is left over of a vectorised loop, many genes through the loop itself
layouts = pytest.mark.parametrize("shape", [(-1, 1), (1, -1), (7, -1)], ids=["one gene", "one cell", "some of both"])


def in_float32(name: str, form: str, arguments: list[Tensor], counts_as: Callable[[Tensor], Any]) -> list[Tensor]:
    with kernels.use(FORMS[form]):
        return value_and_gradients(KERNELS[name].log_likelihood, arguments, torch.float32, counts_as=counts_as)


@every_kernel
def test_the_analytic_form_is_the_reference_in_float64(name: str):
    arguments = [column[:, None] for column in extremes(name)]
    ours = value_and_gradients(KERNELS[name].analytic.log_likelihood, arguments, torch.float64)
    references = value_and_gradients(KERNELS[name].reference.log_likelihood, arguments, torch.float64)
    for found, expected in zip(ours, references, strict=True):
        # automatic differentiation of lgamma itself keeps no more than this
        tolerance = 1e-9 * (1 + arguments[0].view_as(found) + expected.abs())
        assert torch.isfinite(found).all()
        assert ((found - expected).abs() <= tolerance).all()


@layouts
@every_counts
@every_form
@every_kernel
def test_float32_keeps_what_rounding_leaves_of_the_terms(
    name: str, form: str, counts_as: Callable[[Tensor], Any], shape: tuple[int, int]
):
    """Against float64, whose analytic form is the reference to nine digits of the counts."""
    arguments = [column.reshape(shape) for column in extremes(name)]
    found = in_float32(name, form, arguments, counts_as)
    expected = value_and_gradients(KERNELS[name].analytic.log_likelihood, arguments, torch.float64)
    bounds = [terms * share for terms, share in zip(magnitudes(arguments), rounding(arguments), strict=True)]
    bounds[0] = bounds[0].sum(1)
    for ours, truth, bound in zip(found, expected, bounds, strict=True):
        assert torch.isfinite(ours).all()
        assert ((ours - truth).abs() <= bound + 1e-30).all(), float(((ours - truth).abs() / bound).max())


@every_counts
@every_form
@every_kernel
def test_float32_is_the_reference_by_automatic_differentiation(
    name: str, form: str, counts_as: Callable[[Tensor], Any]
):
    """The same grid without the analytic form in between; the reference keeps nine digits of the counts."""
    arguments = [column[:, None] for column in extremes(name)]
    found = in_float32(name, form, arguments, counts_as)
    expected = value_and_gradients(KERNELS[name].reference.log_likelihood, arguments, torch.float64)
    bounds = [terms * share for terms, share in zip(magnitudes(arguments), rounding(arguments), strict=True)]
    for ours, truth, bound in zip(found, expected, bounds, strict=True):
        tolerance = bound.view_as(ours) + 1e-9 * (1 + arguments[0].view_as(ours) + truth.abs())
        assert ((ours - truth).abs() <= tolerance).all()


@every_counts
@every_form
@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_one_dispersion_for_all_cells_takes_the_gradient_of_them_all(
    name: str, form: str, counts_as: Callable[[Tensor], Any]
):
    """Each gene with one of the dispersions, each cell with one of the combinations of all else."""
    arguments = [_dispersion_last(column) for column in extremes(name)]
    shared = [*arguments[:2], arguments[2][0], *arguments[3:]]
    found = in_float32(name, form, shared, counts_as)
    expected = value_and_gradients(KERNELS[name].reference.log_likelihood, arguments, torch.float64)
    bounds = [terms * share for terms, share in zip(magnitudes(arguments), rounding(arguments), strict=True)]
    bounds[0] = bounds[0].sum(1)
    expected[2], bounds[2] = expected[2].sum(0), bounds[2].sum(0) + 1e-6 * magnitudes(arguments)[2].sum(0)
    largest = float(arguments[0].max())
    for ours, truth, bound in zip(found, expected, bounds, strict=True):
        assert ours.shape == truth.shape
        assert ((ours - truth).abs() <= bound + 1e-9 * (1 + largest + truth.abs())).all()


def _dispersion_last(column: Tensor) -> Tensor:
    """(cells, dispersions): the third axis of the grid becomes the genes."""
    return column.reshape(7, 7, 7, -1).movedim(2, -1).reshape(-1, 7).contiguous()
