from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scvi_pp._backend import noise

WIDTH = 3


def draws(n_cells: int, rows: slice | None = None, *, seed: int = 0, sample: int = 0) -> np.ndarray:
    rows = slice(0, n_cells) if rows is None else rows
    return noise.standard_normal(n_cells, WIDTH, seed=seed, sample=sample, rows=rows).numpy()


@pytest.mark.parametrize("n_cells", [1, 4, 5, 23, 40])
def test_rows_are_those_of_the_whole(n_cells: int, monkeypatch):
    monkeypatch.setattr(noise, "ROWS_OF_A_PART", 5)
    whole = draws(n_cells)
    assert whole.shape == (n_cells, WIDTH)
    for start in range(n_cells):
        for stop in range(start + 1, n_cells + 1):
            np.testing.assert_array_equal(draws(n_cells, slice(start, stop)), whole[start:stop])


def test_no_two_draws_are_the_same(monkeypatch):
    monkeypatch.setattr(noise, "ROWS_OF_A_PART", 50)
    several = np.stack([draws(200, seed=seed, sample=sample) for seed in (0, 1) for sample in (0, 1)])
    assert len(np.unique(several)) == several.size


def test_draws_are_standard_normal_and_leave_the_global_state():
    before = torch.get_rng_state()
    found = draws(20_000)
    assert torch.equal(torch.get_rng_state(), before)
    assert stats.kstest(found.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(found.T) - np.eye(WIDTH)).max() < 0.03
