"""Sources: what they accept, what they refuse and how they say it, and what they remember."""

import json
import re
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvi_pp._data.sources import Categories, Category, Counts, Numbers, Positive, Share, as_keys, source_from_dict
from scvi_pp._errors import InputError, MissingKeyError

# anndata 0.13 uses options that pandas 3.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated:DeprecationWarning"),
]

N_CELLS, N_GENES = 30, 7


def matrix(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.5, (N_CELLS, N_GENES)).astype(np.float32)


def cells(x: Any = None, obs: dict[str, Any] | None = None, **kwargs: Any) -> ad.AnnData:
    x = matrix() if x is None else x
    index = [f"cell{i}" for i in range(x.shape[0])]
    names = [f"gene{i}" for i in range(x.shape[1])]
    return ad.AnnData(x, obs=pd.DataFrame(obs or {}, index=index), var=pd.DataFrame(index=names), **kwargs)


# ---- one category


def category(values: Any, key: str = "batch") -> tuple[Category, ad.AnnData]:
    x = np.ones((len(values), 1), dtype=np.float32)
    data = cells(x)
    data.obs[key] = values.set_axis(data.obs_names) if isinstance(values, pd.Series) else values
    return Category((key,)).learn(data), data


@pytest.mark.parametrize(
    ("values", "levels", "codes"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([10.0, 9.0, 10.0], ("9", "10"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (pd.Categorical(["b", "a", "b"], categories=["b", "unused", "a"]), ("b", "a"), [0, 1, 0]),
        (pd.Categorical([10, 9, 10], categories=[10, 9]), ("10", "9"), [0, 1, 0]),
        (pd.Series(["b", "a", "b"], dtype="string"), ("a", "b"), [1, 0, 1]),
        (pd.Series([10, 9, 10], dtype="Int64"), ("9", "10"), [1, 0, 1]),
        (pd.Series([True, False, True], dtype="boolean"), ("False", "True"), [1, 0, 1]),
        (pd.Series([2, "b", 2], dtype=object), ("2", "b"), [0, 1, 0]),
        (pd.Series([2, "2", 3], dtype=object), ("2", "3"), [0, 0, 1]),
        (["", "a", ""], ("", "a"), [0, 1, 0]),
        (["one", "one", "one"], ("one",), [0, 0, 0]),
    ],
)
def test_category_of_any_column_type(values: Any, levels: tuple[str, ...], codes: list[int]) -> None:
    learned, data = category(values)
    assert learned.levels == levels
    read = learned.read(data)
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, codes)


def test_category_codes_equal_those_of_pandas() -> None:
    values = pd.Categorical(np.random.default_rng(0).choice(list("qwertz"), 500), categories=list("ztrewq"))
    learned, data = category(values)
    np.testing.assert_array_equal(learned.read(data), values.codes)


def test_category_reads_the_same_groups_whatever_their_type_and_order() -> None:
    learned, _ = category([3, 1, 2])
    for values in (["2", "3", "1"], [2.0, 3.0, 1.0], pd.Categorical([2, 3, 1], categories=[3, 9, 2, 1])):
        _, other = category(values)
        np.testing.assert_array_equal(learned.read(other), [1, 2, 0])


def test_no_key_means_all_cells_alike() -> None:
    learned = Category(()).learn(cells())
    assert learned.levels == ("all",)
    np.testing.assert_array_equal(learned.read(cells()), np.zeros(N_CELLS, dtype=np.int64))
    assert learned.code("all") == 0
    with pytest.raises(InputError, match="fitted without this key, has no level 'donor1'"):
        learned.code("donor1")


def test_unseen_group_is_named_with_the_known_ones() -> None:
    learned, _ = category(["donor1", "donor2"])
    _, other = category(["donor1", "donor9"])
    with pytest.raises(InputError) as caught:
        learned.read(other)
    assert str(caught.value) == (
        "obs['batch'] holds 'donor9', which the model has not seen. Known: donor1, donor2. Use tl.map_query to add it."
    )


@pytest.mark.parametrize("value", [0, False, ""])
def test_unseen_groups_that_are_false_in_python_are_found(value: object) -> None:
    learned, _ = category(["a", "b"])
    _, other = category(pd.Series(["a", value], dtype=object))
    with pytest.raises(InputError, match="has not seen"):
        learned.read(other)


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_missing_groups_are_counted(missing: object, dtype: str) -> None:
    with pytest.raises(InputError, match=r"obs\['batch'\] is missing \(NaN\) in 2 of 4 cells"):
        category(pd.Series(["a", missing, missing, "b"], dtype=dtype))


def test_measurements_are_no_groups() -> None:
    with pytest.raises(InputError, match=r"obs\['batch'\] holds 0\.37, a measurement and not a group"):
        category([1.0, 0.37])
    with pytest.raises(InputError, match="cannot be grouped"):
        category(pd.Series([[1], [2]], dtype=object))


def test_missing_column_is_named_with_the_nearest() -> None:
    data = cells(obs={"batch": ["a"] * N_CELLS, "celltype": ["b"] * N_CELLS})
    for source in (
        Category(("bacth",)),
        Categories(("bacth",)),
        Numbers(("bacth",)),
        Positive("bacth"),
        Share("bacth"),
    ):
        with pytest.raises(MissingKeyError) as caught:
            source.learn(data)
        assert str(caught.value) == "obs has no column 'bacth'. Did you mean 'batch'? Columns: batch, celltype."
    with pytest.raises(KeyError, match="Did you mean 'batch'"):
        Category(("BATCH",)).learn(data)


def test_several_columns_join_into_one_group() -> None:
    data = cells(np.ones((4, 1)), obs={"site": ["x", "y", "x", "x"], "donor": pd.Categorical([2, 1, 1, 2], [2, 1])})
    learned = Category(("site", "donor")).learn(data)
    assert learned.levels == ("x | 2", "x | 1", "y | 1")
    np.testing.assert_array_equal(learned.read(data), [0, 2, 1, 0])
    assert learned.code("y | 1") == learned.code(("y", 1)) == 2
    with pytest.raises(InputError, match=re.escape("obs['site'] | obs['donor'] holds 'y | 2', which the model")):
        learned.read(cells(np.ones((1, 1)), obs={"site": ["y"], "donor": [2]}))
    assert Category(("donor", "site")).learn(data).levels == ("2 | x", "1 | x", "1 | y")


def test_joined_names_that_could_be_confused_are_refused() -> None:
    data = cells(np.ones((2, 1)), obs={"one": ["a | b", "a"], "two": ["c", "b | c"]})
    with pytest.raises(InputError, match=r"give the same name 'a \| b \| c' to different groups"):
        Category(("one", "two")).learn(data)


def test_code_of_a_level_takes_any_type_and_names_the_near_ones() -> None:
    learned, _ = category([1, 2, 10])
    assert [learned.code(1), learned.code("2"), learned.code(10.0), learned.code(np.int64(2))] == [0, 1, 2, 1]
    named, _ = category(["donor1", "control"])
    with pytest.raises(InputError) as caught:
        named.code("Donor 1")
    assert str(caught.value) == ("obs['batch'] has no level 'Donor 1'. Did you mean 'donor1'? Known: control, donor1.")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_two_columns_of_one_name_are_refused() -> None:
    data = cells(np.ones((2, 1)), obs={"batch": ["a", "b"], "other": ["a", "b"]})
    data.obs.columns = ["batch", "batch"]
    with pytest.raises(InputError, match="obs has 2 columns named 'batch'"):
        Category(("batch",)).learn(data)


def test_many_unseen_and_many_known_groups_give_a_short_message() -> None:
    learned, _ = category([f"seen{i}" for i in range(1000)])
    _, other = category([f"new{i:03}" for i in range(1000)])
    with pytest.raises(InputError, match="'new007' and 992 more.* and 980 more") as caught:
        learned.read(other)
    assert len(str(caught.value)) < 600


# ---- several categories


def test_categories_have_codes_of_their_own() -> None:
    data = cells(np.ones((3, 1)), obs={"site": ["x", "y", "x"], "phase": ["G1", "S", "S"]})
    learned = Categories(("site", "phase")).learn(data)
    assert learned.levels == (("x", "y"), ("G1", "S"))
    codes = learned.read(data)
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codes, [[0, 0], [1, 1], [0, 1]])
    with pytest.raises(InputError, match=r"obs\['phase'\] holds 'M', which the model has not seen"):
        learned.read(cells(np.ones((1, 1)), obs={"site": ["x"], "phase": ["M"]}))


def test_no_keys_give_no_columns() -> None:
    assert Categories(()).learn(cells()).read(cells()).shape == (N_CELLS, 0)
    assert Numbers(()).learn(cells()).read(cells()).shape == (N_CELLS, 0)
    for nothing in (Positive(None), Share(None)):
        assert nothing.learn(cells()).read(cells()) is None


# ---- numbers


def test_numbers_are_standardised_by_the_data_of_the_fit() -> None:
    age = np.random.default_rng(0).normal(60, 12, N_CELLS)
    data = cells(obs={"age": age, "constant": [7] * N_CELLS, "smoker": [True, False] * (N_CELLS // 2)})
    learned = Numbers(("age", "constant", "smoker")).learn(data)
    read = learned.read(data)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read[:, 0], (age - age.mean()) / age.std(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(read[:, 1], 0)
    np.testing.assert_allclose(read[:, 2], [1, -1] * (N_CELLS // 2))
    np.testing.assert_array_equal(learned.read(data[3:5]), read[3:5])


def test_constant_with_rounding_error_is_a_constant() -> None:
    data = cells(obs={"tenth": np.full(N_CELLS, 0.1) + np.arange(N_CELLS) % 2 * 1e-17})
    learned = Numbers(("tenth",)).learn(data)
    assert learned.scale == (1.0,)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "int8", "float32", "uint16"])
def test_numbers_of_every_type_are_read(dtype: str) -> None:
    data = cells(np.ones((3, 1)))
    data.obs["n"] = pd.array([1, 2, 3], dtype=dtype)
    np.testing.assert_allclose(Numbers(("n",)).learn(data).read(data)[:, 0], [-1.2247449, 0, 1.2247449], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, np.nan, 2.0], r"obs\['n'\] is missing \(NaN\) in 1 of 3 cells"),
        (pd.array([1, None, 2], dtype="Int64"), r"obs\['n'\] is missing \(NaN\) in 1 of 3 cells"),
        ([1.0, np.inf, 2.0], r"obs\['n'\] is infinite in 1 of 3 cells"),
        (["1", "2", "3"], r"obs\['n'\] holds (object|str), not numbers\. Convert it with pandas\.to_numeric"),
        (pd.Categorical([1, 2, 3]), r"obs\['n'\] holds category, not numbers"),
        ([1j, 2j, 3j], r"obs\['n'\] holds complex128, not numbers"),
        ([1.0, 1e300, 2.0], "too large for the model"),
    ],
)
def test_unusable_numbers_are_refused(values: Any, message: str) -> None:
    data = cells(np.ones((3, 1)))
    data.obs["n"] = values
    for source in (Numbers(("n",)), Positive("n"), Share("n")):
        with pytest.raises(InputError, match=message):
            source.learn(data)
    with pytest.raises(InputError, match=message):
        Numbers(("n",), mean=(0.0,), scale=(1.0,)).read(data)


def test_query_numbers_that_explode_on_the_scale_of_the_fit_are_refused() -> None:
    data = cells(np.ones((3, 1)), obs={"n": [0.0, 0.0, 3e38]})
    with pytest.raises(InputError, match="too large"):
        Numbers(("n",), mean=(0.0,), scale=(1e-300,)).read(data)


@pytest.mark.parametrize(("source", "values"), [(Positive("size"), [0.5, 1, 2]), (Share("size"), [0.5, 1, 1e-9])])
def test_positive_numbers_are_read_as_they_are(source: Any, values: list[float]) -> None:
    data = cells(np.ones((3, 1)), obs={"size": values})
    size = source.learn(data).read(data)
    assert size is not None
    assert size.dtype == np.float32
    np.testing.assert_array_equal(size, np.array(values, dtype=np.float32))


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e-60])
def test_sizes_that_are_not_positive_are_counted(bad: float) -> None:
    data = cells(np.ones((3, 1)), obs={"size": [0.5, bad, bad]})
    for source in (Positive("size"), Share("size")):
        with pytest.raises(InputError, match=r"obs\['size'\] is zero or negative in 2 of 3 cells"):
            source.learn(data)


def test_shares_above_one_are_counted_with_the_way_to_make_shares_of_them() -> None:
    data = cells(np.ones((4, 1)), obs={"size": [0.5, 1, 2, 40_000]})
    with pytest.raises(InputError) as caught:
        Share("size").learn(data)
    assert str(caught.value) == (
        "obs['size'] is above 1 in 2 of 4 cells (largest 40000), and has to be a share: above 0 and at most 1. Divide it "
        "by its largest value: adata.obs['size'] /= adata.obs['size'].max()."
    )
    data.obs["size"] /= data.obs["size"].max()
    assert Share("size").learn(data).read(data).max() == 1


def test_a_share_that_exceeds_one_by_rounding_is_one() -> None:
    data = cells(np.ones((2, 1)), obs={"size": [1 + 1e-12, 0.5]})
    assert Share("size").learn(data).read(data).max() == 1


# ---- all sources


DECLARED = [
    Counts(),
    Category(()),
    Category(("batch",)),
    Category(("batch", "age")),
    Categories(()),
    Categories(("batch", "site")),
    Numbers(()),
    Numbers(("age",)),
    Positive(None),
    Positive("sizes"),
    Share(None),
    Share("sizes"),
]


@pytest.mark.parametrize("source", DECLARED, ids=str)
def test_sources_survive_json(source: Any) -> None:
    obs = {"batch": ["a", "b"] * (N_CELLS // 2), "site": ["x | y"] * N_CELLS, "age": np.arange(N_CELLS), "sizes": 1.0}
    for kept in (source, source.learn(cells(obs=obs))):
        again = source_from_dict(json.loads(json.dumps(kept.to_dict())))
        assert again == kept
        assert hash(again) == hash(kept)


def test_sources_do_not_read_before_they_learned() -> None:
    for source in (Counts(), Category(()), Category(("batch",)), Categories(()), Numbers(())):
        with pytest.raises(InputError, match="has not learned from any data"):
            source.read(cells())


@pytest.mark.parametrize(
    "source", [Category(("b",)), Categories(("b",)), Numbers(("b",)), Positive("b"), Share("b")], ids=str
)
def test_sources_refuse_data_without_cells(source: Any) -> None:
    data = cells(np.zeros((0, 2)), obs={"b": []})
    with pytest.raises(InputError, match="The data has no cells"):
        source.learn(data)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        3,
        "Counts",
        [],
        {},
        {"kind": "Counts"},
        {"kind": "Source"},
        {"kind": ["Counts"]},
        {"kind": "Positive", "key": 3},
        {"kind": "Positive", "key": "a", "more": 1},
        {"kind": "Share", "key": 3},
        {"kind": "Share"},
        {"kind": "Category", "keys": "batch", "levels": None},
        {"kind": "Category", "keys": ["batch"], "levels": ["a", "a"]},
        {"kind": "Category", "keys": ["batch"], "levels": [["a"]]},
        {"kind": "Category", "keys": [{}], "levels": None},
        {"kind": "Categories", "keys": ["batch"], "levels": []},
        {"kind": "Categories", "keys": ["batch"], "levels": ["abc"]},
        {"kind": "Numbers", "keys": ["n"], "mean": [0.0], "scale": None},
        {"kind": "Numbers", "keys": ["n"], "mean": [0.0], "scale": [0.0]},
        {"kind": "Numbers", "keys": ["n"], "mean": [float("nan")], "scale": [1.0]},
        {"kind": "Numbers", "keys": ["n"], "mean": [0.0, 1.0], "scale": [1.0, 1.0]},
        {"kind": "Counts", "layer": None, "mask_var": None, "integers": "yes", "var_names": None},
        {"kind": "Counts", "layer": None, "mask_var": None, "integers": True, "var_names": [1, 2]},
        {"kind": "Counts", "layer": None, "mask_var": None, "integers": True, "var_names": []},
    ],
    ids=str,
)
def test_stored_junk_is_refused(stored: object) -> None:
    with pytest.raises(InputError):
        source_from_dict(stored)


@pytest.mark.parametrize(
    ("value", "keys"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), (("a",), ("a",)), ([], ())]
)
def test_arguments_name_no_one_or_several_columns(value: object, keys: tuple[str, ...]) -> None:
    assert as_keys(value, "batch_key") == keys


@pytest.mark.parametrize("value", [3, ["a", 3], {"a"}, True])
def test_arguments_that_name_no_columns_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="batch_key takes the name of an obs column or a list of names"):
        as_keys(value, "batch_key")


def test_arguments_that_name_a_column_twice_are_refused() -> None:
    with pytest.raises(InputError, match="batch_key names 'a' twice"):
        as_keys(["a", "b", "a"], "batch_key")


def test_missing_key_error_is_a_key_error_that_reads_well() -> None:
    error = MissingKeyError("obs has no column 'a'.")
    assert isinstance(error, KeyError)
    assert str(error) == "obs has no column 'a'."
    assert str(MissingKeyError()) == ""
