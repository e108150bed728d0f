"""Columns of the cells of a MuData: its own, or what its modalities agree on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scvi_pp._data.multiome import observations
from scvi_pp._data.sources import Category
from scvi_pp._errors import InputError, MissingKeyError
from tests.data.mosaics import FULL, PART, mosaic

pytestmark = [
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # mudata 0.4.1 with pandas 3.1
]


def test_columns_of_mdata_come_first():
    data = mosaic(batch=["m"] * 9)
    data["rna"].obs["batch"] = "r"
    assert set(observations(data, ["batch"]).obs["batch"]) == {"m"}


def test_order_of_a_category_is_that_of_mdata():
    values = pd.Categorical(["b", "a", "c"] * 3, categories=["c", "b", "a"])
    table = observations(mosaic(batch=values), ["batch"])
    assert Category(("batch",)).learn(table).levels == ("c", "b", "a")


def test_order_of_a_category_is_that_of_the_modalities_where_mdata_has_none():
    data = mosaic()
    names = data["rna"].obs_names
    data["rna"].obs["tissue"] = pd.Categorical(np.resize(["b", "a", "c"], len(names)), categories=["c", "b", "a"])
    data["atac"].obs["tissue"] = pd.Categorical(
        data["rna"].obs["tissue"].reindex(data["atac"].obs_names).astype(object).fillna("d"),
        categories=["d", "a", "b", "c"],
    )
    assert list(observations(data, ["tissue"]).obs["tissue"].cat.categories) == ["c", "b", "a", "d"]


def test_a_column_of_modalities_takes_what_they_agree_on():
    data = mosaic()
    data["rna"].obs["batch"] = pd.Categorical(list("aabbaa"))
    data["atac"].obs["batch"] = list("baaccc")
    table = observations(data, ["batch"])
    assert list(table.obs["batch"]) == list("aabbaaccc")
    assert list(table.obs_names) == list(data.obs_names)
    assert list(table.obs.columns) == ["batch"]


def test_numbers_of_modalities_stay_numbers():
    data = mosaic(FULL, FULL)
    data["rna"].obs["age"] = [30, 40, 50, 60, 70, 80]
    assert observations(data, ["age"]).obs["age"].dtype.kind == "i"
    unpaired = mosaic(FULL, PART)
    unpaired["rna"].obs["age"] = 30.5
    unpaired["atac"].obs["age"] = 30.5
    assert observations(unpaired, ["age"]).obs["age"].dtype.kind == "f"


def test_a_conflict_names_the_cell_and_the_way_out():
    data = mosaic()
    data["rna"].obs["batch"] = list("aaaaab")
    data["atac"].obs["batch"] = list("aaaaaa")
    with pytest.raises(InputError) as caught:
        observations(data, ["batch"])
    assert str(caught.value) == (
        "obs['batch'] of cell 'cell5' is 'b' in one modality and 'a' in 'atac'; 1 cells differ. "
        "Put the right values into mdata.obs['batch']."
    )


def test_a_cell_that_no_modality_gives_a_value_is_missing():
    data = mosaic()
    data["rna"].obs["batch"] = "a"
    table = observations(data, ["batch"])
    assert table.obs["batch"].isna().sum() == 3
    with pytest.raises(InputError, match=r"obs\['batch'\] is missing \(NaN\) in 3 of 9 cells"):
        Category(("batch",)).learn(table)


def test_a_value_that_one_modality_lacks_is_that_of_the_other():
    data = mosaic(FULL, FULL)
    data["rna"].obs["batch"] = ["a", None, "a", None, "a", "a"]
    data["atac"].obs["batch"] = [None, "b", "a", "b", None, "a"]
    assert list(observations(data, ["batch"]).obs["batch"]) == list("ababaa")


def test_a_column_that_is_nowhere_is_named_with_the_near_one():
    data = mosaic(donor=["d"] * 9)
    data["atac"].obs["batch"] = "a"
    with pytest.raises(MissingKeyError, match="no column 'bacth'. Did you mean 'batch'. Columns: donor, batch"):
        observations(data, ["bacth"])
