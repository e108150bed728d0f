"""The places of a minibatch, column after column: the machine code is its reference, and both are the transpose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend import kernels
from scvi_pp._backend.kernels.sort_by_column import by_column, cpu, reference
from scvi_pp._backend.sparse import ByColumn, Places, SparseRows

SHAPES = [(1, 1), (1, 50), (50, 1), (30, 40), (3, 70_000)]
DENSITIES = [0.0, 0.02, 0.5, 1.0]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_density = pytest.mark.parametrize("density", DENSITIES)
every_form = pytest.mark.parametrize("form", [cpu, reference], ids=["cpu", "reference"])


def rows(shape: tuple[int, int], density: float) -> SparseRows:
    """Each value is its number among all."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(shape, generator=generator) < density
    if density < 1:
        chosen[:, 0] = chosen[-1] = False
    return SparseRows.of(torch.where(chosen, chosen.view(-1).cumsum(0).view(shape).float(), 0.0))


@every_density
@every_shape
def test_the_machine_code_is_the_reference(shape: tuple[int, int], density: float):
    places = rows(shape, density).places
    for ours, truth in zip(cpu.by_column(places), reference.by_column(places), strict=True):
        assert ours.dtype == truth.dtype == torch.int32
        assert torch.equal(ours, truth)


@every_form
@every_density
@every_shape
def test_it_is_the_transpose(shape: tuple[int, int], density: float, form: Callable[..., ByColumn]):
    x = rows(shape, density)
    starts, row, order = form.by_column(x.places)
    transposed = csr_matrix(x.dense().numpy()).T.tocsr()
    np.testing.assert_array_equal(starts, transposed.indptr)
    np.testing.assert_array_equal(row, transposed.indices)
    np.testing.assert_array_equal(x.values[order], transposed.data)


@every_form
def test_columns_of_a_row_may_stand_in_any_order(form: Callable[..., ByColumn]):
    places = Places(torch.tensor([0, 3, 5], dtype=torch.int32), torch.tensor([2, 0, 1, 2, 0], dtype=torch.int32), 4)
    starts, row, order = form.by_column(places)
    assert starts.tolist() == [0, 2, 3, 5, 5]
    assert row.tolist() == [0, 1, 0, 0, 1]
    assert order.tolist() == [1, 4, 2, 0, 3]


def test_the_form_follows_the_choice_and_places_remember_it(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(cpu, "by_column", lambda _: asked.append("cpu"))
    monkeypatch.setattr(reference, "by_column", lambda _: asked.append("reference"))
    places = rows((3, 4), 0.5).places
    for choice in ("auto", "analytic", "reference"):
        with kernels.use(choice):
            by_column(places)
    assert asked == ["cpu", "reference", "reference"]
    monkeypatch.undo()
    assert places.by_column is places.by_column
