"""Counts: every kind of matrix gives the same numbers, and a matrix of anything else is refused."""

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvi_pp._data.counts import Counts, _plain, in_memory
from scvi_pp._errors import InputError, MissingKeyError, ScviPPError

# anndata 0.13 uses options that pandas 3.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated:DeprecationWarning"),
]

N_CELLS, N_GENES = 30, 7
GENES = [f"gene{i}" for i in range(N_GENES)]


def matrix(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.5, (N_CELLS, N_GENES)).astype(np.float32)


def cells(x: Any = None, obs: dict[str, Any] | None = None, **kwargs: Any) -> ad.AnnData:
    x = matrix() if x is None else x
    index = [f"cell{i}" for i in range(x.shape[0])]
    names = [f"gene{i}" for i in range(x.shape[1])]
    return ad.AnnData(x, obs=pd.DataFrame(obs or {}, index=index), var=pd.DataFrame(index=names), **kwargs)


def read_counts(data: ad.AnnData, **kwargs: Any) -> sp.csr_matrix:
    return Counts(**kwargs).learn(data).read(data)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def read_only_csr(x: np.ndarray) -> sp.csr_matrix:
    made = sp.csr_matrix(x)
    for part in (made.data, made.indices, made.indptr):
        part.flags.writeable = False
    return made


def unsorted_csr(x: np.ndarray) -> sp.csr_matrix:
    made = sp.csr_matrix(x)[:, ::-1][:, ::-1].tocsr()
    for start, end in zip(made.indptr[:-1], made.indptr[1:], strict=True):
        made.indices[start:end] = made.indices[start:end][::-1].copy()
        made.data[start:end] = made.data[start:end][::-1].copy()
    return sp.csr_matrix((made.data, made.indices, made.indptr), shape=x.shape)


def csr_with_zeros_and_duplicates(x: np.ndarray) -> sp.csr_matrix:
    """Each value v stored as v - 1 and 1, and each zero as 1 and -1, which sums to an explicit zero."""
    rows, columns = (part.ravel() for part in np.indices(x.shape))
    data = np.stack([x.ravel() - 1, np.ones(x.size)], axis=1).ravel().astype(np.float32)
    indptr = np.arange(0, 2 * x.size + 1, 2 * x.shape[1])
    assert rows.size == x.size
    return sp.csr_matrix((data, np.repeat(columns, 2), indptr), shape=x.shape)


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
    "dense": np.array,
    "dense_fortran": np.asfortranarray,
    "matrix": lambda x: x.view(np.matrix),
    "read_only": read_only,
    "read_only_csr": read_only_csr,
    "unsorted_csr": unsorted_csr,
    "duplicates": csr_with_zeros_and_duplicates,
    **{f"dense_{t}": (lambda x, t=t: x.astype(t)) for t in ("int8", "int64", "uint16", "uint64", "float16", "float64")},
    **{f"csr_{t}": (lambda x, t=t: sp.csr_matrix(x.astype(t))) for t in ("int32", "uint8", "float64")},
    **{f"csc_{t}": (lambda x, t=t: sp.csc_matrix(x.astype(t))) for t in ("int64", "uint16")},
    "int64_indices": lambda x: sp.csr_matrix(
        (sp.csr_matrix(x).data, sp.csr_matrix(x).indices.astype(np.int64), sp.csr_matrix(x).indptr.astype(np.int64)),
        shape=x.shape,
    ),
}


@pytest.mark.filterwarnings("ignore:.* should not be a np.matrix")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["X", "layer"])
def test_every_kind_of_matrix_gives_the_same_counts(form: str, place: str) -> None:
    x = FORMS[form](matrix())
    data = cells(x) if place == "X" else cells(np.zeros_like(matrix()), layers={"counts": x})
    counts = read_counts(data, layer=None if place == "X" else "counts")
    assert isinstance(counts, sp.csr_matrix)
    assert counts.dtype == np.float32
    assert counts.has_canonical_format
    assert (counts.data != 0).all()
    np.testing.assert_array_equal(counts.toarray(), matrix())


@pytest.mark.filterwarnings("ignore:.* should not be a np.matrix")
@pytest.mark.parametrize("form", FORMS)
def test_what_was_read_cannot_change_the_data(form: str) -> None:
    x = FORMS[form](matrix())
    data = cells(x)
    before = data.X.toarray().copy() if sp.issparse(data.X) else np.array(data.X)
    counts = read_counts(data)
    theirs = [data.X.data, data.X.indices, data.X.indptr] if sp.issparse(data.X) else [np.asarray(data.X)]
    for part in (counts.data, counts.indices, counts.indptr):
        if part.flags.writeable:
            assert not any(np.shares_memory(part, other) for other in theirs)
            part[:] = 0
    after = data.X.toarray() if sp.issparse(data.X) else np.asarray(data.X)
    np.testing.assert_array_equal(after, before)


def test_boolean_matrix_is_read_as_zeros_and_ones() -> None:
    x = matrix() > 1
    for form in (np.array, sp.csr_matrix, sp.csc_matrix):
        np.testing.assert_array_equal(read_counts(cells(layers={"open": form(x)}), layer="open").toarray(), x)


@pytest.mark.parametrize("form", [np.array, sp.csr_matrix, sp.csc_matrix])
def test_backed_data_is_read_like_data_in_memory(form: Callable[..., Any], tmp_path: Any) -> None:
    cells(form(matrix())).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(read_counts(backed).toarray(), matrix())
    learned = Counts().learn(backed)
    np.testing.assert_array_equal(learned.read(backed[[4, 2]]).toarray(), matrix()[[4, 2]])
    backed.file.close()


class ChunkedArray:
    """Behaves as dask arrays do where it matters here."""

    def compute(self) -> Any:
        return DeviceArray()


class DeviceArray:
    """Behaves as cupy arrays do where it matters here."""

    def get(self) -> np.ndarray:
        return matrix()


ChunkedArray.__module__, DeviceArray.__module__ = "dask.array.core", "cupy._core.core"


class ViewOfChunkedArray(ChunkedArray):
    """As anndata derives its views."""


def test_chunked_and_device_arrays_come_to_host_memory() -> None:
    for lazy in (DeviceArray(), ChunkedArray(), ViewOfChunkedArray()):
        np.testing.assert_array_equal(in_memory(lazy), matrix())


def test_views_are_read() -> None:
    data = cells(sp.csr_matrix(matrix()))
    view = data[[5, 1, 3], ["gene4", "gene0"]]
    np.testing.assert_array_equal(read_counts(view).toarray(), matrix()[[5, 1, 3]][:, [4, 0]])
    assert view.is_view


def test_genes_are_matched_by_name() -> None:
    learned = Counts().learn(cells())
    shuffled = cells()[:, ["gene3", "gene6", "gene0", "gene1", "gene5", "gene2", "gene4"]].copy()
    np.testing.assert_array_equal(learned.read(shuffled).toarray(), matrix())
    for form in (np.array, sp.csr_matrix, sp.csc_matrix, sp.csr_array):
        more = cells(form(np.hstack([matrix()[:, ::-1], matrix()[:, :2]])))
        more.var_names = [*GENES[::-1], "other0", "other1"]
        counts = learned.read(more)
        np.testing.assert_array_equal(counts.toarray(), matrix())
        assert counts.has_canonical_format


def test_missing_genes_are_counted_and_named() -> None:
    learned = Counts().learn(cells())
    with pytest.raises(
        InputError, match=r"var_names lacks 2 of the model's 7 features: gene1, gene5\. Pass the data with"
    ):
        learned.read(cells()[:, [0, 2, 3, 4, 6]])
    renamed = cells()
    renamed.var_names = [f"ENSG{i}" for i in range(N_GENES)]
    with pytest.raises(InputError, match=r"lacks 7 of .*gene4 and 2 more\. The names here \(ENSG0, ENSG1, ENSG2, "):
        learned.read(renamed)


@pytest.mark.parametrize("dtype", [bool, "boolean", object])
def test_mask_var_chooses_genes_at_the_fit_and_names_find_them_later(dtype: Any) -> None:
    data = cells()
    data.var["highly_variable"] = pd.array([True, False, True, False, False, True, False], dtype=dtype)
    learned = Counts(mask_var="highly_variable").learn(data)
    assert learned.var_names == ("gene0", "gene2", "gene5")
    np.testing.assert_array_equal(learned.read(data).toarray(), matrix()[:, [0, 2, 5]])
    del data.var["highly_variable"]
    np.testing.assert_array_equal(learned.read(data[:, ::-1]).toarray(), matrix()[:, [0, 2, 5]])


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (None, MissingKeyError, r"var has no column 'hvg'\. Did you mean 'hvgs'\? Columns: hvgs\."),
        ([True, None, False, True, None, True, True], InputError, r"missing \(NaN\) for 2 of 7 features"),
        ([False] * 7, InputError, "False for all 7 features"),
        ([0.5] * 7, InputError, "holds float64, not True and False"),
        (["True"] * 7, InputError, "not True and False"),
    ],
)
def test_unusable_masks_are_refused(column: Any, error: type[ScviPPError], message: str) -> None:
    data = cells()
    if column is None:
        data.var["hvgs"] = True
    else:
        data.var["hvg"] = column
    with pytest.raises(error, match=message):
        Counts(mask_var="hvg").learn(data)


def set_value(value: float) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        x = matrix().astype(np.float64)
        x[-1, -1] = value
        return x

    return make


BAD_VALUES = {
    "nan": (set_value(np.nan), "X holds NaN values"),
    "inf": (set_value(np.inf), "X holds infinite values"),
    "minus_inf": (set_value(-np.inf), "X holds infinite values"),
    "negative": (set_value(-3), r"X holds negative values \(smallest -3\), and the model needs counts"),
    "scaled": (lambda: matrix() - 1.25, r"negative values \(smallest -1\.25\): it looks scaled"),
    "fraction": (set_value(0.5), "not whole numbers .*looks log-normalised"),
    "log": (lambda: np.log1p(matrix()), r"not whole numbers \(largest \d\.\d+\): it looks log-normalised"),
    "normalised": (lambda: 1e4 * matrix() / 7, "not whole numbers .*it looks normalised"),
    "too_large": (set_value(2**24 + 1), "the count 16777217, and float32 holds whole numbers exactly only up to"),
}


@pytest.mark.parametrize("kind", BAD_VALUES)
@pytest.mark.parametrize("form", [np.array, sp.csr_matrix, sp.csc_array])
def test_one_bad_value_anywhere_is_found(kind: str, form: Callable[..., Any]) -> None:
    make, message = BAD_VALUES[kind]
    data = cells(form(make()))
    with pytest.raises(InputError, match=message):
        Counts().learn(data)
    learned = Counts().learn(cells())
    with pytest.raises(ValueError, match=message):
        learned.read(data)


def test_bad_value_beyond_the_first_block_is_found() -> None:
    x = np.ones((1100, 1000), dtype=np.float32)
    x[-1, -1] = 1.5
    with pytest.raises(InputError, match="not whole numbers"):
        Counts().learn(cells(x))


def test_genes_that_are_not_modelled_may_hold_anything() -> None:
    data = cells(set_value(np.nan)())
    data.var["mask"] = [True] * 6 + [False]
    assert read_counts(data, mask_var="mask").shape == (N_CELLS, 6)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_integers_too_large_for_float32_are_refused(dtype: str) -> None:
    with pytest.raises(InputError, match="16777217"):
        Counts().learn(cells(set_value(2**24 + 1)().astype(dtype)))
    assert read_counts(cells(set_value(2**24)().astype(dtype))).max() == 2**24


def test_real_values_are_read_for_a_normal_likelihood_unless_not_finite() -> None:
    x = matrix() - 1.25
    np.testing.assert_array_equal(read_counts(cells(x), integers=False).toarray(), x)
    for bad, finding in ((np.nan, "NaN values"), (np.inf, "infinite values"), (-1e300, "values too large for float32")):
        with pytest.raises(
            InputError, match=rf"^X holds {finding}\. Replace them, or leave those cells or features out\.$"
        ):
            read_counts(cells(set_value(bad)()), integers=False)


def test_error_names_the_layer_that_holds_counts() -> None:
    data = cells(np.log1p(matrix()), layers={"a_copy": matrix(), "counts": sp.csr_matrix(matrix())})
    with pytest.raises(InputError, match=r"layers\['counts'\] holds counts: pass layer='counts'\."):
        Counts().learn(data)
    data.layers["counts"] = data.X.copy()
    with pytest.raises(InputError, match=r"layers\['a_copy'\] holds counts: pass layer='a_copy'\."):
        Counts().learn(data)


def test_error_names_x_if_that_holds_counts() -> None:
    data = cells(layers={"log": np.log1p(matrix())})
    with pytest.raises(InputError, match=r"^layers\['log'\] holds .* X holds counts: leave layer out\.$"):
        Counts(layer="log").learn(data)


def test_error_names_raw_if_that_holds_counts() -> None:
    data = cells()
    data.raw = data
    data.X = np.log1p(matrix())
    with pytest.raises(InputError, match=r"raw holds counts: adata.layers\['counts'\] = adata.raw\[:, adata.var_names"):
        Counts().learn(data)
    data.layers["counts"] = data.raw[:, data.var_names].X  # what the message says
    np.testing.assert_array_equal(read_counts(data, layer="counts").toarray(), matrix())


def test_error_says_what_to_do_if_there_are_no_counts_at_all() -> None:
    with pytest.raises(InputError, match=r"Pass the layer that holds the counts before any normalisation"):
        Counts().learn(cells(np.log1p(matrix())))


def test_missing_layer_is_named_with_the_nearest() -> None:
    with pytest.raises(MissingKeyError) as caught:
        Counts(layer="cuonts").learn(cells(layers={"counts": matrix()}))
    assert str(caught.value) == "adata has no layer 'cuonts'. Did you mean 'counts'? Layers: counts."
    with pytest.raises(KeyError, match="It has no layers"):
        Counts(layer="counts").learn(cells())


def test_missing_x_is_refused_with_the_layers() -> None:
    data = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["g"]))
    data.layers["counts"] = np.ones((2, 1))
    with pytest.raises(InputError, match=r"X is empty \(None\)\. Pass layer= to read a layer\. Layers: counts\."):
        Counts().learn(data)
    assert read_counts(data, layer="counts").shape == (2, 1)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_cells_or_no_genes_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"The data has {shape[0]} cells and {shape[1]} features"):
        Counts().learn(cells(np.zeros(shape, dtype=np.float32)))


def test_one_cell_one_gene_and_all_zeros_are_fine() -> None:
    assert read_counts(cells(np.ones((1, 1)))).shape == (1, 1)
    assert read_counts(cells(np.zeros((3, 2)))).nnz == 0
    assert read_counts(cells(sp.csr_matrix((3, 2), dtype=np.float32))).nnz == 0


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_repeated_gene_names_are_refused_with_the_fix() -> None:
    data = cells()
    data.var_names = ["a", "b", "a", "c", "d", "e", "f"]
    with pytest.raises(InputError, match=r"var_names holds 'a' more than once\. Call adata\.var_names_make_unique\(\)"):
        Counts().learn(data)
    data.var_names = [*GENES[:-1], "gene0"]
    with pytest.raises(InputError, match="more than once"):
        Counts().learn(cells()).read(data)


@pytest.mark.parametrize("x", [np.full((2, 2), 1j), np.full((2, 2), "a"), np.full((2, 2), 1, dtype=object)])
def test_matrices_of_no_numbers_are_refused(x: np.ndarray) -> None:
    with pytest.raises(InputError, match="not real numbers"):
        _plain(x)


def test_masked_values_are_refused() -> None:
    learned = Counts().learn(cells())
    data = cells()
    data.layers["masked"] = np.zeros((N_CELLS, N_GENES))
    data.layers._data["masked"] = np.ma.masked_less(matrix(), 1)
    with pytest.raises(InputError, match="masked"):
        Counts(layer="masked", var_names=learned.var_names).read(data)


@pytest.mark.parametrize("kwargs", [{"layer": 3}, {"mask_var": [True]}, {"integers": 1}, {"var_names": ["a"]}])
def test_counts_declared_with_wrong_types_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Counts(**kwargs)
