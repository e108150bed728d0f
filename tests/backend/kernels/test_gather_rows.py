"""The rows of a minibatch, out of all rows as they are packed: the machine code is its reference, and both are right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.kernels.gather_rows import cpu, gather, reference
from scvi_pp._backend.sparse import MANY, PackedRows, SparseRows

CPU = torch.device("cpu")
N_ROWS = 40

# what the values are -> how they are packed
VALUES: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], torch.dtype]] = {
    "small counts": (lambda rng, n: rng.integers(1, MANY, n), torch.uint8),
    "a few large counts": (lambda rng, n: np.where(rng.random(n) < 0.02, rng.integers(MANY, 10**6, n), 1), torch.uint8),
    "a few fractions": (lambda rng, n: np.where(rng.random(n) < 0.02, rng.normal(size=n), 3), torch.uint8),
    "many fractions": (lambda rng, n: rng.normal(size=n), torch.float32),
    "many large counts": (lambda rng, n: rng.integers(200, 300, n), torch.float32),
}
INDICES: dict[str, list[int]] = {
    "in order": list(range(N_ROWS)),
    "reordered": [7, 0, 39, 3],
    "repeated": [5, 5, 5, 0, 5],
    "one": [11],
    "none": [],
}
every_values = pytest.mark.parametrize("values", VALUES)
every_index = pytest.mark.parametrize("index", INDICES)
every_form = pytest.mark.parametrize("form", [cpu, reference], ids=["cpu", "reference"])


def matrix_of(values: str, n_columns: int = 60, density: float = 0.4) -> csr_matrix:
    """Some rows are empty."""
    rng = np.random.default_rng(0)
    draw = VALUES[values][0]
    matrix = csr_matrix(
        random_array((N_ROWS, n_columns), density=density, rng=rng, data_sampler=lambda size: draw(rng, size)),
        dtype=np.float32,
    )
    matrix = csr_matrix(matrix.multiply((np.arange(N_ROWS) % 9 != 5)[:, None]))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def assert_equal(found: SparseRows, expected: SparseRows) -> None:
    """To the bit and to the type."""
    assert found.places.n_columns == expected.places.n_columns
    for ours, truth in (
        (found.places.starts, expected.places.starts),
        (found.places.columns, expected.places.columns),
        (found.values, expected.values),
    ):
        assert ours.dtype == truth.dtype
        assert torch.equal(ours, truth)


@every_index
@every_values
def test_the_machine_code_is_the_reference(values: str, index: str):
    packed = PackedRows.of(matrix_of(values))
    assert packed.values.dtype == VALUES[values][1]
    rows = torch.tensor(INDICES[index], dtype=torch.int64)
    assert_equal(cpu.gather(packed, rows), reference.gather(packed, rows))


@every_form
@every_index
@every_values
def test_what_is_gathered_is_what_was_packed(values: str, index: str, form: Callable[..., SparseRows]):
    matrix = matrix_of(values)
    found = form.gather(PackedRows.of(matrix), torch.tensor(INDICES[index], dtype=torch.int64))
    assert found.shape == (len(INDICES[index]), 60)
    assert (found.places.starts.dtype, found.places.columns.dtype) == (torch.int32, torch.int32)
    assert found.values.dtype == torch.float32
    np.testing.assert_array_equal(found.dense().numpy(), matrix.toarray()[INDICES[index]])


@every_form
def test_large_values_are_found_wherever_they_stand(form: Callable[..., SparseRows]):
    """At the start and at the end of a row, of the matrix and of a block of the packing."""
    dense = np.ones((12, 30), np.float32)
    for row, column, value in ((0, 0, 255), (0, 29, 256), (5, 0, 1e6), (5, 1, 0.5), (11, 29, 16_777_216), (7, 3, -2)):
        dense[row, column] = value
    packed = PackedRows.of(csr_matrix(dense))
    assert (packed.values.dtype, len(packed.large)) == (torch.uint8, 6)
    index = torch.tensor([11, 5, 0, 7, 5])
    np.testing.assert_array_equal(form.gather(packed, index).dense().numpy(), dense[index])


@every_form
@pytest.mark.parametrize(
    ("n_columns", "dtype"), [(1, torch.int16), (40_000, torch.int16), (65_536, torch.int16), (65_537, torch.int32)]
)
def test_the_last_column_is_reached_however_many_there_are(
    n_columns: int, dtype: torch.dtype, form: Callable[..., SparseRows]
):
    columns = np.unique([0, n_columns // 2, n_columns - 1])
    n = len(columns)
    matrix = csr_matrix((np.arange(1.0, n + 1), (np.zeros(n, int), columns)), shape=(3, n_columns))
    packed = PackedRows.of(matrix)
    assert packed.columns.dtype == dtype
    found = form.gather(packed, torch.tensor([2, 0]))
    assert found.places.columns.tolist() == columns.tolist()
    assert found.places.starts.tolist() == [0, 0, n]
    assert found.values.tolist() == list(range(1, n + 1))


@every_form
def test_rows_may_start_beyond_two_to_the_31(form: Callable[..., SparseRows]):
    """Values are read at 64-bit places: here those before the rows are never stored, only their number is."""
    beyond = 2**31 + 5
    packed = _far_out(beyond)
    found = form.gather(packed, torch.tensor([2, 0, 1]))
    assert found.places.starts.tolist() == [0, 1, 3, 3]
    assert found.places.columns.tolist() == [4, 1, 3]
    assert found.values.tolist() == [300.0, 1.0, 2.0]


def _far_out(beyond: int) -> PackedRows:
    """Three rows after `beyond` places, in memory that the system hands out when it is written to."""
    try:
        columns, values = torch.empty(beyond + 3, dtype=torch.int16), torch.empty(beyond + 3, dtype=torch.uint8)
    except RuntimeError:
        pytest.skip("this system hands out no memory before it is written to")
    columns[beyond:] = torch.tensor([1, 3, 4], dtype=torch.int16)
    values[beyond:] = torch.tensor([1, 2, MANY], dtype=torch.uint8)
    return PackedRows(
        torch.tensor([0, 2, 2, 3]) + beyond, columns, values, torch.tensor([beyond + 2]), torch.tensor([300.0]), 5
    )


def test_the_form_follows_the_choice(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(cpu, "gather", lambda *_: asked.append("cpu"))
    monkeypatch.setattr(reference, "gather", lambda *_: asked.append("reference"))
    packed, index = PackedRows.of(csr_matrix(np.eye(3))), torch.arange(3)
    for choice in ("auto", "analytic", "reference"):
        with kernels.use(choice):
            gather(packed, index)
    assert asked == ["cpu", "reference", "reference"]


def test_packed_rows_are_left_as_they_are():
    packed = PackedRows.of(matrix_of("a few large counts"))
    parts: list[Tensor] = [packed.starts, packed.columns, packed.values, packed.large_at, packed.large]
    before = [part.clone() for part in parts]
    gathered = gather(packed, torch.arange(N_ROWS))
    gathered.values.zero_()
    gathered.places.columns.zero_()
    assert all(torch.equal(part, old) for part, old in zip(parts, before, strict=True))
