"""Read counts of ATAC-seq become fragment counts, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from scvi_pp import pp
from scvi_pp._errors import InputError, MissingKeyError

SPARSE = (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array)


def counted_reads(n_obs: int = 60, n_vars: int = 40, *, lonely: float = 0.1, seed: int = 0) -> np.ndarray:
    """Fragments are Poisson; both ends of each are read, but for the lonely ones, of which one lies elsewhere."""
    random = np.random.default_rng(seed)
    fragments = random.poisson(0.3, (n_obs, n_vars))
    return (2 * fragments - random.binomial(fragments, lonely)).astype(np.float32)


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


# What is computed


def test_fragments_are_half_the_reads_rounded_up():
    reads = counted_reads()
    reads[0, :5] = [0, 2, 3, 4, 9]
    adata = AnnData(reads)
    assert pp.reads_to_fragments(adata) is None
    np.testing.assert_array_equal(adata.layers["fragments"], np.ceil(reads / 2))
    np.testing.assert_array_equal(adata.layers["fragments"][0, :5], [0, 1, 2, 2, 5])


def test_fragments_are_found_again_where_both_ends_were_read():
    reads = counted_reads(lonely=0)
    adata = AnnData(sparse.csr_matrix(reads))
    pp.reads_to_fragments(adata)
    np.testing.assert_array_equal(2 * adata.layers["fragments"].toarray(), reads)


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_stays_sparse_of_the_same_kind(kind):
    reads = counted_reads()
    adata = AnnData(kind(reads))
    pp.reads_to_fragments(adata)
    fragments = adata.layers["fragments"]
    assert type(fragments) is type(adata.X)
    assert (fragments.format, fragments.dtype) == (adata.X.format, np.float32)
    np.testing.assert_array_equal(fragments.toarray(), np.ceil(reads / 2))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint32", "float32", "float64"])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_values_keep_their_type_up_to_its_largest(dtype: str, kind):
    reads = counted_reads().astype(dtype)
    reads[0, 0] = 255
    adata = AnnData(kind(reads))
    pp.reads_to_fragments(adata)
    fragments = adata.layers["fragments"]
    assert fragments.dtype == dtype
    assert dense(fragments)[0, 0] == 128


def test_an_entry_stored_in_two_parts_is_one_count():
    matrix = sparse.csr_matrix(counted_reads(lonely=0))
    twice = sparse.csr_matrix(
        (np.repeat(matrix.data / 2, 2), np.repeat(matrix.indices, 2), 2 * matrix.indptr), shape=matrix.shape
    )
    adata = AnnData(twice)
    pp.reads_to_fragments(adata)
    np.testing.assert_array_equal(adata.layers["fragments"].toarray(), matrix.toarray() / 2)
    assert adata.X.nnz == 2 * matrix.nnz


# Where it is written


def test_layer_is_read_and_key_added_names_the_result():
    reads = counted_reads()
    adata = AnnData(np.zeros_like(reads), layers={"reads": reads})
    pp.reads_to_fragments(adata, layer="reads", key_added="halved")
    np.testing.assert_array_equal(adata.layers["halved"], np.ceil(reads / 2))
    assert "fragments" not in adata.layers


@pytest.mark.parametrize("kind", [np.array, *SPARSE])
def test_nothing_else_is_touched_and_no_memory_is_shared(kind):
    reads = counted_reads()
    adata = AnnData(kind(reads), uns={"kept": 1})
    adata.obs["n"] = 1.0
    pp.reads_to_fragments(adata)
    np.testing.assert_array_equal(dense(adata.X), reads)
    assert (list(adata.obs), list(adata.var), dict(adata.uns), len(adata.obsm)) == (["n"], [], {"kept": 1}, 0)
    for name in ("data", "indices", "indptr") if sparse.issparse(adata.X) else ():
        assert not np.shares_memory(getattr(adata.X, name), getattr(adata.layers["fragments"], name))


def test_copy_leaves_the_object_alone():
    adata = AnnData(counted_reads())
    copied = pp.reads_to_fragments(adata, copy=True)
    assert "fragments" in copied.layers
    assert "fragments" not in adata.layers


@pytest.mark.parametrize("kind", [np.array, *SPARSE])
def test_a_view_becomes_an_object_of_its_own(kind):
    reads = counted_reads()
    adata = AnnData(kind(reads))
    view = adata[10:40, ::2]
    pp.reads_to_fragments(view)
    assert not view.is_view
    np.testing.assert_array_equal(dense(view.layers["fragments"]), np.ceil(reads[10:40, ::2] / 2))
    assert not type(view.layers["fragments"]).__name__.endswith("View")
    assert "fragments" not in adata.layers


@pytest.mark.parametrize("kind", [np.array, sparse.csr_matrix])
def test_counts_are_read_from_a_file_on_disk(kind, tmp_path):
    import anndata

    reads = counted_reads()
    AnnData(kind(reads)).write_h5ad(tmp_path / "reads.h5ad")
    backed = anndata.read_h5ad(tmp_path / "reads.h5ad", backed="r")
    pp.reads_to_fragments(backed)
    np.testing.assert_array_equal(dense(backed.layers["fragments"]), np.ceil(reads / 2))
    backed.file.close()


# What is refused


@pytest.mark.parametrize(
    ("counts", "finding"),
    [
        (np.random.default_rng(0).poisson(0.3, (50, 40)), r"more ones \([\d,]+\) than twos .*fragment counts already"),
        (np.random.default_rng(0).poisson(0.3, (50, 40)) > 0, "binary"),
        ((np.random.default_rng(0).poisson(0.3, (50, 40)) > 0).astype(np.float32), "binary"),
        (np.zeros((5, 4), np.float32), "no count above zero"),
        (np.array([[2, 2, 3, 3, 3]]), r"no more even counts \(2\) than odd ones \(3\)"),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_counts_that_do_not_come_in_pairs_are_refused_unless_forced(counts, finding: str, kind):
    adata = AnnData(kind(counts))
    with pytest.raises(InputError, match=f"X holds .*{finding}.*force=True"):
        pp.reads_to_fragments(adata)
    assert "fragments" not in adata.layers
    pp.reads_to_fragments(adata, force=True)
    np.testing.assert_array_equal(dense(adata.layers["fragments"]), np.ceil(counts / 2))


def test_fragments_are_not_halved_again():
    adata = AnnData(counted_reads())
    pp.reads_to_fragments(adata)
    with pytest.raises(InputError, match=r"layers\['fragments'\] holds more ones"):
        pp.reads_to_fragments(adata, layer="fragments")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("value", "finding"), [(-2.0, "negative"), (0.5, "not whole numbers"), (np.nan, "NaN"), (np.inf, "infinite")]
)
def test_what_is_no_count_is_refused_even_if_forced(value: float, finding: str, force: bool):
    reads = counted_reads()
    reads[30, 20] = value
    for counts in (reads, sparse.csr_matrix(reads)):
        with pytest.raises(InputError, match=f"X holds .*{finding}.*layer="):
            pp.reads_to_fragments(AnnData(counts), force=force)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key_added": "a/b"}, "key_added='a/b'"),
        ({"key_added": 3}, "key_added takes a name"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_done(arguments: dict, message: str):
    adata = AnnData(counted_reads(), layers={"reads": counted_reads()})
    with pytest.raises(InputError, match=message):
        pp.reads_to_fragments(adata, **arguments)
    with pytest.raises(MissingKeyError, match=r"no layer 'raeds'. Did you mean 'reads'\?"):
        pp.reads_to_fragments(adata, layer="raeds")


def test_what_is_no_anndata_or_has_no_values_is_refused():
    with pytest.raises(InputError, match=r"pp.reads_to_fragments takes an AnnData, not ndarray"):
        pp.reads_to_fragments(counted_reads())
    with pytest.raises(InputError, match=r"X is empty \(None\)"):
        pp.reads_to_fragments(AnnData(obs={"n": [1, 2]}))
    with pytest.raises(InputError, match="not real numbers"):
        pp.reads_to_fragments(AnnData(counted_reads().astype(complex)))
