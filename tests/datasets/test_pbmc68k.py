"""The counts recovered from scanpy's file are counts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from scvi_pp import datasets
from scvi_pp._errors import ScviPPError
from scvi_pp.datasets._pbmc68k import counts_from_logs


@pytest.fixture(scope="module")
def adata():
    return datasets.pbmc68k()


def log_normalised(counts: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """As scanpy normalises, with the totals; every row must hold a one."""
    totals = counts.sum(1).astype(float)
    return sparse.csr_matrix(np.log1p(1e4 * counts / totals[:, None]).astype(np.float32)), totals


def test_counts_are_whole_numbers_with_a_one_in_every_cell(adata):
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.shape == (700, 765)
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    np.testing.assert_array_equal(adata.X.data, np.rint(adata.X.data))
    smallest = np.minimum.reduceat(adata.X.data, adata.X.indptr[:-1])
    assert set(smallest) == {1.0}


def test_counts_never_exceed_what_the_cell_had_in_all_genes(adata):
    assert (adata.X.sum(1).A1 <= adata.obs["n_counts"]).all()
    assert (adata.X.getnnz(1) <= adata.obs["n_genes"]).all()
    assert adata.X.sum() == 486_651


def test_counts_normalised_again_are_what_scanpy_ships(adata):
    import scanpy as sc

    published = sc.datasets.pbmc68k_reduced()
    again = adata.X.multiply(1e4 / published.obs["n_counts"].to_numpy()[:, None]).log1p().toarray()
    np.testing.assert_allclose(again, published.raw.X.toarray(), atol=3e-3)
    assert (adata.var_names == published.var_names).all()


def test_known_markers_are_counted_in_their_cells(adata):
    def mean_count(gene: str, label: str) -> float:
        return adata.X[(adata.obs["bulk_labels"] == label).to_numpy()][:, adata.var_names.get_loc(gene)].mean()

    assert mean_count("CD79A", "CD19+ B") > 10 * mean_count("CD79A", "CD14+ Monocyte")
    assert mean_count("LYZ", "CD14+ Monocyte") > 5 * mean_count("LYZ", "CD19+ B")


def test_nothing_of_other_processing_is_left(adata):
    assert adata.obs["bulk_labels"].nunique() == 10
    assert "n_counts" in adata.var
    layers = [key for key in adata.layers if key is not None]  # newer anndata lists X, as None
    assert not any((adata.raw, dict(adata.obsm), dict(adata.varm), dict(adata.obsp), dict(adata.uns), layers))


def test_each_call_gives_an_object_of_its_own(adata):
    first = adata.X.data[0]
    other = datasets.pbmc68k()
    other.X.data[:] = 0
    other.obs["n_counts"] = 0.0
    assert adata.X.data[0] == first
    assert adata.obs["n_counts"].min() > 0


def test_counts_are_recovered_from_any_normalised_counts():
    counts = np.random.default_rng(0).poisson(3, (50, 30))
    counts[:, 0] = 1
    recovered = counts_from_logs(*log_normalised(counts))
    np.testing.assert_array_equal(recovered.toarray(), counts)


def test_values_that_are_no_counts_are_refused():
    logs, totals = log_normalised(np.random.default_rng(0).uniform(0.5, 9, (20, 30)))
    with pytest.raises(ScviPPError, match=r"away from whole numbers.*simulate_rna"):
        counts_from_logs(logs, totals)


def test_a_cell_without_a_single_count_is_refused():
    counts = 2 * np.random.default_rng(0).poisson(9, (20, 30)) + 2
    counts[:, 0] = 2
    with pytest.raises(ScviPPError, match="not one count"):
        counts_from_logs(*log_normalised(counts))


@pytest.mark.parametrize("bad", [np.nan, -1.0, 0.0, np.inf])
def test_impossible_values_and_empty_cells_are_refused(bad: float):
    logs, totals = log_normalised(np.ones((3, 4)))
    logs.data[5] = bad
    with pytest.raises(ScviPPError, match="not above zero"):
        counts_from_logs(logs, totals)
    with pytest.raises(ScviPPError, match="empty"):
        counts_from_logs(sparse.csr_matrix((3, 4)), totals)


def test_importing_datasets_loads_neither_scanpy_nor_torch():
    code = "import sys, scvi_pp.datasets; print([name for name in ('scanpy', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
