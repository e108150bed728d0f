"""Labels of which some are missing."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvi_pp._data.labels import Labels
from scvi_pp._data.sources import source_from_dict
from scvi_pp._errors import InputError, MissingKeyError

VALUES = ["T", "B", None, "Unknown", "T", "B", "NK"]


def cells(values: object) -> ad.AnnData:
    n = len(values)  # type: ignore[arg-type]
    return ad.AnnData(obs=pd.DataFrame({"type": values}, index=[f"c{i}" for i in range(n)]))


def codes(values: object, unlabeled: str | None = None) -> list[int]:
    source = Labels("type", unlabeled).learn(cells(values))
    return source.read(cells(values)).tolist()


def test_cells_without_a_label_have_the_code_behind_the_last():
    assert codes(VALUES, "Unknown") == [2, 0, 3, 3, 2, 0, 1]
    assert codes(VALUES) == [2, 0, 4, 3, 2, 0, 1]


@pytest.mark.parametrize(
    "values",
    [
        pd.Categorical(VALUES, categories=["T", "never", "Unknown", "NK", "B"]),
        pd.Series(VALUES, dtype="string").to_numpy(),
        pd.Series(VALUES, dtype=object).fillna(np.nan).to_numpy(),
    ],
    ids=["categorical", "string", "nan"],
)
def test_every_kind_of_column_is_read(values: object):
    source = Labels("type", "Unknown").learn(cells(values))
    assert set(source.levels or ()) == {"T", "NK", "B"}
    names = np.array([*(source.levels or ()), None], dtype=object)
    assert names[source.read(cells(values))].tolist() == ["T", "B", None, None, "T", "B", "NK"]


def test_a_categorical_column_says_the_order():
    source = Labels("type").learn(cells(pd.Categorical(["b", "a", "b"], categories=["b", "a", "unused"])))
    assert source.levels == ("b", "a")


def test_numbers_with_gaps_are_labels():
    assert codes(np.array([2.0, 1.0, np.nan, 2.0])) == [1, 0, 2, 1]
    assert codes([True, False, True]) == [1, 0, 1]


def test_what_the_model_does_not_know_has_no_label():
    source = Labels("type").learn(cells(["T", "B"]))
    assert source.read(cells(["B", "new", None])).tolist() == [0, 2, 2]
    assert source.read(ad.AnnData(obs=pd.DataFrame(index=["c0", "c1"]))).tolist() == [2, 2]


def test_names_of_cells_may_repeat():
    with pytest.warns(UserWarning, match="not unique"):
        twice = ad.AnnData(obs=pd.DataFrame({"type": ["a", "b"]}, index=["c", "c"]))
    source = Labels("type").learn(twice)
    assert source.read(twice).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "unlabeled", "message"),
    [
        ([None, None], None, r"obs\['type'\] holds nothing: no cell has a label. Label some, or use tl.scvi"),
        (["Unknown", None], "Unknown", "holds nothing but 'Unknown': no cell has a label"),
        (["T", "T", "Unknown"], "Unknown", "has one label, 'T', and there is nothing to tell it from"),
        (
            ["T", "B", "Unknown"],
            "unknown",
            "is nowhere in .* which holds 'Unknown'.* Give unlabeled_category='Unknown'",
        ),
        (["T", "B", "unassigned"], "Unknown", "Give unlabeled_category='unassigned'"),
        ([1.5, 2.5], None, "a measurement and not a group"),
    ],
)
def test_what_cannot_be_is_refused(values: list, unlabeled: str | None, message: str):
    with pytest.raises(InputError, match=message):
        Labels("type", unlabeled).learn(cells(values))


def test_a_column_that_is_not_there_is_refused_by_the_fit_alone():
    with pytest.raises(MissingKeyError, match="obs has no column 'cell'"):
        Labels("cell").learn(cells(["a", "b"]))


def test_an_unlabeled_category_that_no_cell_has_is_taken():
    assert Labels("type", "Unknown").learn(cells(["a", "b"])).levels == ("a", "b")


def test_labels_that_look_like_none_are_told():
    assert Labels("type").learn(cells(["T", "Unassigned", "na"])).suspicious() == ("Unassigned", "na")
    assert Labels("type").learn(cells(["T", "NK"])).suspicious() == ()


def test_it_goes_through_json():
    source = Labels("type", "Unknown").learn(cells(VALUES))
    assert source_from_dict(json.loads(json.dumps(source.to_dict()))) == source


def test_nothing_is_read_before_it_has_learned():
    with pytest.raises(InputError, match="has not learned from any data"):
        Labels("type").read(cells(["a", "b"]))
