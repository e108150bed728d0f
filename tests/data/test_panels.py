"""Which proteins were measured in which batch: by zeros, by hand, or all of them; and what is remembered."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

from scvi_pp._data.counts import Counts
from scvi_pp._data.multiome import ModalityCounts
from scvi_pp._data.panels import FEWEST_CELLS, Panels, panels
from scvi_pp._data.read import learn, read
from scvi_pp._data.sources import source_from_dict
from scvi_pp._errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # mudata 0.4.1 with pandas 3.1
]

NAMES = ("CD3", "CD4", "CD8")


def cells(zeros: dict[str, tuple[str, ...]], n: int = 12, n_without: int = 0) -> MuData:
    """Batches of n cells, without counts of some proteins; the last cells are in no modality of proteins."""
    batches = np.repeat(["a", "b", "c"], n)
    counts = pd.DataFrame(3.0, index=[f"cell{i}" for i in range(3 * n)], columns=list(NAMES))
    for batch, names in zeros.items():
        counts.loc[batches == batch, list(names)] = 0
    obs = pd.DataFrame({"batch": batches}, index=counts.index)
    rna = ad.AnnData(np.ones((3 * n, 2), dtype=np.float32), obs=obs, var=pd.DataFrame(index=["g1", "g2"]))
    proteins = ad.AnnData(counts.iloc[: 3 * n - n_without])
    return MuData({"rna": rna, "protein": proteins})


def learned(data: MuData, missing: Any = "zeros", keys: tuple[str, ...] = ("batch",)) -> Panels:
    return panels(ModalityCounts("protein", Counts()), keys, missing).learn(data)


def test_no_count_in_a_batch_while_another_has_some_is_no_measurement():
    data = cells({"a": ("CD4",), "b": ("CD4", "CD8")})
    found = learned(data)
    assert found.lacking == {"a": ("CD4",), "b": ("CD4", "CD8")}
    expected = np.repeat([[True, False, True], [True, False, False], [True, True, True]], 12, axis=0)
    np.testing.assert_array_equal(found.read(data), expected)


def test_what_no_batch_has_is_zero_in_all_and_what_few_cells_lack_may_be_chance():
    assert learned(cells({"a": ("CD4",), "b": ("CD4",), "c": ("CD4",)})).lacking == {}
    few = cells({"a": ("CD4",)}, n=FEWEST_CELLS - 1)
    assert learned(few).lacking == {}
    assert learned(few).read(few) is None


def test_cells_outside_the_modality_are_no_evidence():
    data = cells({"c": ("CD4",)}, n_without=5)
    assert learned(data).lacking == {}
    assert learned(cells({"c": ("CD4",)}, n_without=2)).lacking == {"c": ("CD4",)}


def test_zeros_are_zeros_if_asked_for_and_without_batches():
    data = cells({"a": ("CD4",)})
    assert learned(data, None).read(data) is None
    assert learned(data, keys=()).read(data) is None


@pytest.mark.parametrize("missing", [{"b": ["CD3"], "c": []}, {"b": "CD3"}, {"b": ("CD3",)}], ids=str)
def test_what_is_given_by_hand_counts_whatever_the_counts_say(missing: dict):
    data = cells({"a": ("CD4",)})
    found = learned(data, missing)
    assert found.lacking == {"b": ("CD3",)}
    assert found.read(data)[:, 1].all() and not found.read(data)[12:24, 0].any()


def test_joined_batches_are_named_by_their_values():
    data = cells({})
    data["rna"].obs["run"] = np.arange(36) % 2
    found = learned(data, {("b", 1): ["CD3"]}, ("batch", "run"))
    assert found.lacking == {"b | 1": ("CD3",)}


def test_it_is_remembered_through_json():
    data = cells({"a": ("CD4",)})
    found = learned(data)
    again = source_from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    one = data[:1].copy()
    np.testing.assert_array_equal(again.read(one), [[True, False, True]])


def test_a_batch_of_a_query_is_looked_at_by_the_rule_of_the_fit():
    found = learned(cells({"a": ("CD4",)}))
    query = cells({"a": ("CD4", "CD8"), "b": ("CD3",)})
    query["rna"].obs["batch"] = query["rna"].obs["batch"].replace({"a": "new"})
    extended = found.extended(query, found.proteins)
    assert extended.lacking == {"a": ("CD4",), "new": ("CD4", "CD8")}
    np.testing.assert_array_equal(extended.read(query)[0], [True, False, False])
    assert extended.read(query)[12:24].all(), "b is known, and had CD3"
    by_hand = learned(cells({}), {"a": ["CD4"]})
    assert by_hand.extended(query, by_hand.proteins).lacking == {"a": ("CD4",)}


class Inputs(NamedTuple):
    protein: Any
    panel: Any


def test_it_reads_a_mudata_beside_other_sources():
    data = cells({"a": ("CD4",)})
    proteins = ModalityCounts("protein", Counts())
    sources = learn(data, Inputs(proteins, panels(proteins, ("batch",), "zeros")), verb="tl.totalvi")
    arrays = read(data, sources, verb="tl.totalvi")
    assert arrays.panel.shape == arrays.protein.shape == (36, 3)


@pytest.mark.parametrize(
    "stored",
    [{"rule": "guess"}, {"keys": "batch"}, {"batches": ["a"]}, {"batches": ["a"], "unmeasured": [[3]]}],
    ids=str,
)
def test_a_description_that_is_none_is_refused(stored: dict):
    with pytest.raises(InputError):
        source_from_dict(learned(cells({}), None).to_dict() | {"batches": [], "unmeasured": []} | stored)
