"""A minibatch as a dense tile, without a word to the host: to the bit what the reference gathers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array

from scvi_pp._backend.kernels.gather_rows import reference
from scvi_pp._backend.kernels.gather_rows.device import tile
from scvi_pp._backend.sparse import MANY, PackedRows
from tests.cuda.without_host import asks_nothing_of_the_host

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
N_ROWS = 40
INDICES = {
    "in order": list(range(N_ROWS)),
    "backwards": list(range(N_ROWS))[::-1],
    "reordered": [7, 0, 39, 3],
    "repeated": [5, 5, 5, 0, 5],
    "empty rows alone": [5, 14],
    "the last row": [39],
    "none": [],
}
VALUES = {
    "small counts": lambda rng, n: rng.integers(1, MANY, n),
    "a few large counts": lambda rng, n: np.where(rng.random(n) < 0.05, rng.integers(MANY, 10**6, n), 1),
    "counts of just 255": lambda rng, n: np.where(rng.random(n) < 0.05, MANY, 1),
    "a few fractions": lambda rng, n: np.where(rng.random(n) < 0.05, rng.normal(size=n), 3),
    "fractions": lambda rng, n: rng.normal(size=n),
}
every_index = pytest.mark.parametrize("index", INDICES)


def packed_rows(values: str, n_columns: int = 60, density: float = 0.4) -> tuple[csr_matrix, PackedRows]:
    """Some rows are empty."""
    rng = np.random.default_rng(0)
    shape = (N_ROWS, n_columns)
    draw = random_array(shape, density=density, rng=rng, data_sampler=lambda size: VALUES[values](rng, size))
    matrix = csr_matrix(csr_matrix(draw, dtype=np.float32).multiply((np.arange(N_ROWS) % 9 != 5)[:, None]))
    matrix.eliminate_zeros()
    return matrix, PackedRows.of(matrix).to(DEVICE)


def longest(matrix: csr_matrix) -> int:
    return int(np.diff(matrix.indptr).max())


@every_index
@pytest.mark.parametrize("values", VALUES)
def test_a_tile_is_the_gathered_rows_made_dense(values: str, index: str):
    matrix, packed = packed_rows(values)
    rows = torch.tensor(INDICES[index], dtype=torch.int64, device=DEVICE)
    found = tile(packed, rows, longest(matrix))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert torch.equal(found, reference.gather(packed, rows).dense())
    np.testing.assert_array_equal(found.cpu().numpy(), matrix.toarray()[INDICES[index]])


@every_index
def test_rows_may_be_shorter_than_the_longest_that_is_allowed_for(index: str):
    matrix, packed = packed_rows("small counts")
    rows = torch.tensor(INDICES[index], dtype=torch.int64, device=DEVICE)
    assert torch.equal(tile(packed, rows, 1000), tile(packed, rows, longest(matrix)))


@pytest.mark.parametrize("n_columns", [1, 32_768, 65_536, 65_537], ids=str)
def test_every_column_is_reached_however_many_there_are(n_columns: int):
    columns = np.unique([0, n_columns // 2, n_columns - 1])
    n = len(columns)
    matrix = csr_matrix((np.arange(1.0, n + 1), (np.ones(n, int), columns)), shape=(3, n_columns))
    found = tile(PackedRows.of(matrix).to(DEVICE), torch.tensor([2, 1], device=DEVICE), n)
    np.testing.assert_array_equal(found.cpu().numpy(), matrix.toarray()[[2, 1]])


def test_without_any_count_a_tile_is_zeros():
    packed = PackedRows.of(csr_matrix((4, 3), dtype=np.float32)).to(DEVICE)
    for longest in (0, 2):
        found = tile(packed, torch.tensor([3, 0], device=DEVICE), longest)
        assert torch.equal(found, torch.zeros(2, 3, device=DEVICE))


@pytest.mark.parametrize("values", ["small counts", "a few large counts", "fractions"])
def test_the_host_is_asked_nothing(values: str):
    _, packed = packed_rows(values)
    rows = torch.tensor([3, 5, 3], device=DEVICE)
    with asks_nothing_of_the_host():
        tile(packed, rows, 60)
