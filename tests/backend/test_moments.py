"""Where a model of counts begins: what is found in counts whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend import kernels
from scvi_pp._backend.moments import DISPERSION_RANGE, expression_moments, library_moments, open_share
from tests.backend import small

N_CELLS = 4000
SHARE = np.array([0.5, 0.3, 0.15, 0.05])
DISPERSION = np.array([0.5, 2.0, 5.0, 1.0])


def simulated(exposure: np.ndarray, *, size_factor: bool = False) -> small.Inputs:
    rng = np.random.default_rng(0)
    mean = exposure[:, None] * SHARE
    counts = rng.poisson(rng.gamma(DISPERSION, mean / DISPERSION)).astype(np.float32)
    inputs = small.arrays(len(exposure), len(SHARE))
    factors = exposure.astype(np.float32) if size_factor else None
    return inputs._replace(counts=csr_matrix(counts), size_factor=factors)


def by_numpy(x: np.ndarray, exposure: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share, dispersion and deviation of dense counts, as they are defined, in float64."""
    x, exposure = x.astype(np.float64), exposure.astype(np.float64)
    share = x.sum(0) / exposure.sum()
    residual = np.square(x - exposure[:, None] * share).sum(0)
    dispersion = share**2 * np.square(exposure).sum() / np.maximum(residual - x.sum(0), 1e-12)
    deviation = np.sqrt(np.maximum(residual / len(x), 1e-8))
    return np.maximum(share, share[share > 0].min()), dispersion.clip(*DISPERSION_RANGE), deviation


@pytest.mark.parametrize("block", [7, 64, 4096])
@pytest.mark.parametrize("form", ["auto", "analytic"])
@pytest.mark.parametrize("kind", ["counts", "large counts", "fractions", "real numbers"])
@pytest.mark.parametrize("size_factor", [False, True])
def test_moments_are_those_of_the_dense_counts(kind: str, size_factor: bool, form: str, block: int):
    rng = np.random.default_rng(3)
    inputs = small.arrays(200, 30, size_factor=size_factor)
    x = inputs.counts.toarray()
    x[:, 4] = x[11] = 0  # a gene that is never seen, and an empty cell
    if kind == "large counts":
        x[rng.random(x.shape) < 0.02] = 100_003
    elif kind != "counts":
        x *= rng.random(x.shape) * 3
    if kind == "real numbers":
        x -= 0.3 * (rng.random(x.shape) < 0.05)
    inputs = inputs._replace(counts=csr_matrix(x))
    rows = rng.permutation(200)[:150]
    with kernels.use(form):
        found = expression_moments(small.cells(inputs), torch.tensor(rows), block=block)
    expected = by_numpy(x[rows], (inputs.size_factor if size_factor else x.astype(np.float64).sum(1))[rows])
    for ours, truth in zip((found.share, found.dispersion, found.deviation), expected, strict=True):
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours, truth, rtol=1e-5)


@pytest.mark.parametrize("scale", [100.0, 1e-3], ids=["counts per cell", "tiny size factors"])
def test_share_and_dispersion_are_recovered_with_size_factors(scale: float):
    exposure = np.random.default_rng(1).lognormal(np.log(20), 0.4, N_CELLS)
    inputs = simulated(exposure, size_factor=True)
    inputs = inputs._replace(size_factor=inputs.size_factor * scale / 20)
    moments = expression_moments(small.cells(inputs), torch.arange(N_CELLS))
    np.testing.assert_allclose(moments.share * scale / 20, SHARE, rtol=0.1)
    np.testing.assert_allclose(moments.dispersion, DISPERSION, rtol=0.2)


def test_shares_sum_to_one_where_the_total_is_the_exposure():
    inputs = simulated(np.full(N_CELLS, 50.0))
    moments = expression_moments(small.cells(inputs), torch.arange(N_CELLS))
    assert float(moments.share.sum()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(moments.share, SHARE, rtol=0.1)


def test_counts_without_overdispersion_have_the_largest_dispersion():
    counts = np.random.default_rng(0).poisson(3.0, (N_CELLS, 2)).astype(np.float32)
    inputs = small.arrays(N_CELLS, 2)
    inputs = inputs._replace(counts=csr_matrix(counts), size_factor=np.ones(N_CELLS, np.float32))
    moments = expression_moments(small.cells(inputs), torch.arange(N_CELLS))
    assert (moments.dispersion > 30).all()
    assert (moments.dispersion <= DISPERSION_RANGE[1]).all()


def test_deviation_is_that_about_the_mean():
    rng = np.random.default_rng(0)
    values = rng.normal([1.0, 4.0], [0.1, 0.7], (N_CELLS, 2)).astype(np.float32)
    inputs = small.arrays(N_CELLS, 2)._replace(counts=csr_matrix(values), size_factor=np.ones(N_CELLS, np.float32))
    moments = expression_moments(small.cells(inputs), torch.arange(N_CELLS))
    np.testing.assert_allclose(moments.deviation, [0.1, 0.7], rtol=0.05)


def test_a_gene_that_is_never_seen_begins_at_the_smallest_share_seen():
    inputs = simulated(np.full(200, 50.0))
    counts = inputs.counts.toarray()
    counts[:, 2] = 0
    moments = expression_moments(small.cells(inputs._replace(counts=csr_matrix(counts))), torch.arange(200))
    assert moments.share[2] == moments.share[[0, 1, 3]].min()
    assert all(torch.isfinite(value).all() for value in (moments.share.log(), moments.dispersion, moments.deviation))


def test_no_counts_at_all_still_give_finite_moments():
    inputs = small.arrays(10, 4)._replace(counts=csr_matrix((10, 4), dtype=np.float32))
    moments = expression_moments(small.cells(inputs), torch.arange(10))
    assert all(torch.isfinite(value).all() for value in (moments.share.log(), moments.dispersion, moments.deviation))


@pytest.mark.parametrize("block", [7, 100_000])
def test_moments_are_of_the_rows_asked_for_whatever_the_blocks(block: int):
    inputs = simulated(np.full(300, 50.0))
    rows = np.arange(0, 300, 3)
    some = inputs._replace(**{name: getattr(inputs, name)[rows] for name in ("counts", "batch", "labels")})
    some = some._replace(categories=inputs.categories[rows], numbers=inputs.numbers[rows])
    expected = expression_moments(small.cells(some), torch.arange(len(rows)))
    found = expression_moments(small.cells(inputs), torch.tensor(rows), block=block)
    torch.testing.assert_close(found.share, expected.share)
    torch.testing.assert_close(found.dispersion, expected.dispersion)
    torch.testing.assert_close(found.deviation, expected.deviation)


@pytest.mark.parametrize("block", [7, 100_000])
@pytest.mark.parametrize("dense", [False, True])
def test_the_open_share_is_that_of_the_rows_asked_for_whatever_the_blocks(block: int, dense: bool):
    inputs = small.regions(100, 12)
    counts = inputs.counts.toarray()
    counts[:, 3], counts[5] = 0, 0
    inputs = inputs._replace(counts=counts if dense else csr_matrix(counts))
    rows = np.random.default_rng(0).permutation(100)[:60]
    found = open_share(small.cells(inputs), torch.tensor(rows), block=block)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, (counts[rows] > 0).mean(0), rtol=1e-6)
    assert found[3] == 0


def test_a_zero_that_is_stored_is_not_open():
    stored = csr_matrix((np.array([2, 0, 0, 1], np.float32), [0, 1, 0, 2], [0, 2, 4]), shape=(2, 3))
    inputs = small.regions(2, 3)._replace(counts=stored)
    assert open_share(small.cells(inputs), torch.arange(2)).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("block", [7, 100_000])
def test_the_open_share_is_of_what_could_be_seen(block: int):
    """A cell of which half is seen shows half of its open regions."""
    inputs = small.regions(100, 12, size_factor=True)
    rows = np.arange(0, 100, 3)
    n_open = (inputs.counts.toarray()[rows] > 0).sum(0)
    found = open_share(small.cells(inputs), torch.tensor(rows), block=block)
    np.testing.assert_allclose(found, n_open / inputs.size_factor[rows].sum(), rtol=1e-6)


def test_library_moments_are_those_of_each_batch():
    rng = np.random.default_rng(0)
    batch = np.repeat([0, 1], 500)
    total = np.exp(rng.normal(np.array([3.0, 6.0])[batch], np.array([0.2, 0.5])[batch])).round().clip(1)
    inputs = small.arrays(1000, 1)._replace(counts=csr_matrix(total[:, None].astype(np.float32)), batch=batch)
    mean, variance = library_moments(small.cells(inputs), torch.arange(1000), 3)
    log_total = np.log(total)
    np.testing.assert_allclose(mean[:2], [log_total[:500].mean(), log_total[500:].mean()], rtol=1e-5)
    np.testing.assert_allclose(variance[:2], [log_total[:500].var(), log_total[500:].var()], rtol=1e-5)
    assert (float(mean[2]), float(variance[2])) == (0, 1)  # a batch without cells


def test_cells_without_counts_say_nothing_of_the_library():
    total = np.array([10, 20, 0, 0], dtype=np.float32)
    inputs = small.arrays(4, 1)._replace(counts=csr_matrix(total[:, None]), batch=np.array([0, 0, 0, 1]))
    mean, variance = library_moments(small.cells(inputs), torch.arange(4), 2)
    np.testing.assert_allclose(mean, [np.log([10, 20]).mean(), 0], rtol=1e-6)
    np.testing.assert_allclose(variance, [np.log([10, 20]).var(), 1], rtol=1e-6)


def test_a_batch_of_equal_libraries_keeps_a_proper_prior():
    inputs = small.arrays(4, 1)._replace(counts=csr_matrix(np.full((4, 1), 5, np.float32)), batch=np.zeros(4, int))
    _, variance = library_moments(small.cells(inputs), torch.arange(4), 1)
    assert float(variance) > 0
