"""What was not measured is left out, and what was measured and is empty is not."""

from __future__ import annotations

import pytest
import torch

from scvi_pp._backend.measured import log_of_measured, measured_in, of_measured, of_modality, present_in, rows_of
from scvi_pp._backend.sparse import SparseRows
from tests.backend import mosaic

MEASURED = torch.tensor([True, False, True, True, False])


def test_only_what_was_measured_is_evaluated():
    asked = []

    def evaluate(index: torch.Tensor | None) -> torch.Tensor:
        asked.append(index)
        return rows_of(torch.arange(1.0, 6.0), index)

    assert of_measured(MEASURED, evaluate).tolist() == [1, 0, 3, 4, 0]
    assert asked[0].tolist() == [0, 2, 3]


def test_where_all_were_measured_no_rows_are_picked():
    def evaluate(index: torch.Tensor | None) -> torch.Tensor:
        assert index is None
        return torch.arange(5.0)

    assert of_measured(torch.ones(5, dtype=torch.bool), evaluate).tolist() == [0, 1, 2, 3, 4]


def test_where_nothing_was_measured_nothing_is_evaluated():
    def evaluate(index: torch.Tensor | None) -> torch.Tensor:
        raise AssertionError

    assert of_measured(torch.zeros(5, dtype=torch.bool), evaluate).tolist() == [0] * 5


def test_gradients_reach_what_was_measured_as_they_come():
    """The kernel of regions relies on each being that of the mean, bit for bit."""
    x = torch.randn(5, requires_grad=True)
    (-of_measured(MEASURED, lambda index: rows_of(x, index) * 1.0)).mean().backward()
    expected = torch.full((5,), -1.0) / 5
    assert torch.equal(x.grad, torch.where(MEASURED, expected, 0.0))


def test_rows_of_counts_are_those_of_the_dense_counts():
    dense = torch.poisson(torch.full((5, 7), 0.5), generator=torch.Generator().manual_seed(0))
    index = torch.tensor([3, 0])
    assert torch.equal(rows_of(SparseRows.of(dense), index).dense(), rows_of(dense, index))
    assert rows_of(dense, None) is dense


def test_a_size_factor_of_what_was_not_measured_may_be_anything():
    factors = torch.tensor([2.0, torch.nan, 4.0, 1.0, 0.0])
    assert log_of_measured(factors, MEASURED)[:, 0].tolist() == pytest.approx([0.6931472, 0, 1.3862944, 0, 0])


def test_presence_is_what_was_said():
    inputs = mosaic.arrays()
    rows = torch.tensor([5, 2, 11])
    assert torch.equal(present_in(mosaic.cells(inputs), rows), torch.tensor(inputs.present[[5, 2, 11]]))
    cells = mosaic.everything(inputs)
    for column, modality in enumerate(("expression", "accessibility", "protein")):
        assert torch.equal(measured_in(cells, modality), torch.tensor(inputs.present[:, column]))


@pytest.mark.parametrize("modality", ["expression", "accessibility", "protein"])
def test_one_modality_can_be_looked_at_as_a_model_of_it_would(modality):
    inputs = mosaic.arrays(size_factors=True)
    view = of_modality(mosaic.cells(inputs), modality)
    rows = torch.tensor([4, 3, 60])
    found = view.minibatch(rows)
    assert torch.equal(found.counts.dense(), torch.tensor(getattr(inputs, modality)[[4, 3, 60]].toarray()))
    blocks = list(view.blocks(2, rows))
    assert [where for where, _ in blocks] == [slice(0, 2), slice(2, 3)]
    if modality == "protein":
        assert found.size_factor is None
    else:
        expected = getattr(inputs, f"{modality}_size_factor")[[4, 3, 60]]
        assert torch.equal(found.size_factor, torch.tensor(expected))
