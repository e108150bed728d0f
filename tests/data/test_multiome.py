"""What is read from a MuData: counts and presence by cell, whatever cells its modalities have."""

from __future__ import annotations

import json
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from mudata import MuData

from scvi_pp._data.counts import Counts
from scvi_pp._data.modalities import multimodal
from scvi_pp._data.multiome import (
    ModalityCounts,
    Present,
    RowNumber,
    copied,
    modality_of,
    observations,
    rows_of_modality,
)
from scvi_pp._data.sources import source_from_dict
from scvi_pp._errors import InputError, MissingKeyError
from tests.data.mosaics import FULL, OTHERS, PART, modality, mosaic

pytestmark = [
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:Duplicated obs_names:UserWarning"),
    pytest.mark.filterwarnings("ignore:(Observation |obs_)names are not unique:UserWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),  # mudata 0.4.1 with pandas 3.1
]

OVERLAPS = {"same cells": (FULL, FULL), "some": (FULL, PART), "none": (FULL, OTHERS), "within": (FULL, range(2, 4))}


def expected(data: MuData, name: str) -> np.ndarray:
    held = data[name]
    rows = dict(zip(held.obs_names, held.X.toarray(), strict=True))
    return np.array([rows.get(cell, np.zeros(held.n_vars)) for cell in data.obs_names])


def counts_of(name: str) -> ModalityCounts:
    return ModalityCounts(name, Counts())


# ---- every overlap of cells


def permuted(data: MuData) -> MuData:
    return data[np.random.default_rng(0).permutation(data.n_obs)]


def updated(data: MuData) -> MuData:
    data.update()
    return data


WAYS = {
    "as it is": lambda data: data,
    "view": lambda data: data[1:],
    "copy of a view": lambda data: data[1:].copy(),
    "permuted": permuted,
    "permuted copy": lambda data: permuted(data).copy(),
    "updated": updated,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_counts_and_presence_belong_to_their_cells(overlap: str, way: str):
    learned_on = mosaic(*OVERLAPS[overlap])
    data = WAYS[way](mosaic(*OVERLAPS[overlap]))
    for column, name in enumerate(("rna", "atac")):
        source = counts_of(name).learn(learned_on)
        found = source.read(data)
        assert (type(found), found.dtype) == (sp.csr_matrix, np.float32)
        np.testing.assert_array_equal(found.toarray(), expected(data, name))
        present = Present(("rna", "atac")).learn(learned_on).read(data)
        assert present.dtype == np.bool_
        np.testing.assert_array_equal(present[:, column], data.obs_names.isin(data[name].obs_names))


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_a_file_reads_as_what_was_written(overlap: str, tmp_path: Path):
    data = mosaic(*OVERLAPS[overlap])
    data.write_h5mu(tmp_path / "mosaic.h5mu")
    back = mudata.read_h5mu(tmp_path / "mosaic.h5mu")
    sources = [counts_of("rna").learn(data), counts_of("atac").learn(data)]
    for source in sources:
        np.testing.assert_array_equal(source.read(back).toarray(), source.read(data).toarray())
    both = Present(("rna", "atac"))
    np.testing.assert_array_equal(both.read(back), both.read(data))


def test_cells_of_a_modality_may_be_in_another_order():
    rna, atac = modality(FULL, "rna"), modality([5, 3, 8, 4], "atac")
    data = MuData({"rna": rna, "atac": atac})
    np.testing.assert_array_equal(counts_of("atac").learn(data).read(data).toarray(), expected(data, "atac"))


def test_a_modality_that_was_put_in_anew_is_found_by_the_names_of_its_cells():
    data = mosaic()
    data.mod["rna"] = data["rna"][::-1].copy()  # as some do, without mdata.update()
    np.testing.assert_array_equal(counts_of("rna").learn(data).read(data).toarray(), expected(data, "rna"))
    data.mod["rna"] = modality(range(2), "rna")
    np.testing.assert_array_equal(rows_of_modality(data, "rna")[:3], [0, 1, -1])
    data.mod["rna"] = modality(range(20), "rna")  # the others are no cells of mdata
    with pytest.raises(InputError, match=r"cells of mdata\['rna'\] have changed .* Call mdata.update\(\)"):
        counts_of("rna").learn(data).read(data)


def test_a_modality_that_was_added_is_found_by_the_names_of_its_cells():
    data = mosaic()
    data.mod["protein"] = modality([2, 1], "protein")
    np.testing.assert_array_equal(rows_of_modality(data, "protein"), [-1, 1, 0, *[-1] * 6])


def test_names_that_repeat_are_no_obstacle_where_the_order_tells_cells_apart():
    data = mosaic(FULL, FULL)
    for held in (data["rna"], data["atac"]):
        held.obs_names = ["twin", "twin", *held.obs_names[2:]]
    data = MuData({"rna": data["rna"], "atac": data["atac"]})
    np.testing.assert_array_equal(counts_of("rna").learn(data).read(data).toarray(), data["rna"].X.toarray())
    assert Present(("rna", "atac")).learn(data).read(data).all()
    data["rna"].obs["batch"] = list("abcdef")
    assert list(observations(data, ["batch"]).obs["batch"]) == list("abcdef")


def test_a_cell_without_counts_was_measured_all_the_same():
    data = mosaic(FULL, PART)
    data["rna"].X = data["rna"].X * 0
    assert Present(("rna", "atac")).learn(data).read(data)[:6, 0].all()
    assert counts_of("rna").learn(data).read(data).nnz == 0


def test_counts_are_not_copied_where_nothing_has_to_move():
    data = mosaic(FULL, FULL)
    found = counts_of("rna").learn(data).read(data)
    assert np.shares_memory(found.data, data["rna"].X.data)


def test_reading_changes_nothing():
    data = mosaic()
    before = data["atac"].X.copy()
    found = counts_of("atac").learn(data).read(data)
    found.data[:] = -1  # of cells that moved: an array of its own
    np.testing.assert_array_equal(data["atac"].X.toarray(), before.toarray())
    assert list(data.mod) == ["rna", "atac"]


def test_layer_and_mask_are_those_of_the_modality():
    data = mosaic(FULL, PART)
    data["atac"].layers["counts"] = data["atac"].X.copy()
    data["atac"].X = data["atac"].X.log1p()
    data["atac"].var["chosen"] = [True, False, True]
    source = ModalityCounts("atac", Counts("counts", "chosen")).learn(data)
    assert source.var_names == ("atac0", "atac2")
    assert source.place == "mdata['atac'].layers['counts']"
    assert source.read(data).shape == (9, 2)


# ---- new cells, and cells that are not there


def test_new_cells_may_all_lack_a_modality():
    data = mosaic(FULL, OTHERS)
    sources = [counts_of(name).learn(data) for name in ("rna", "atac")]
    alone = data[:6]
    assert alone["atac"].n_obs == 0
    rna, atac = (source.read(alone) for source in sources)
    np.testing.assert_array_equal(rna.toarray(), expected(alone, "rna"))
    assert (atac.shape, atac.nnz, atac.dtype) == ((6, 3), 0, np.float32)
    np.testing.assert_array_equal(Present(("rna", "atac")).read(alone), [[True, False]] * 6)


def test_nothing_is_learned_from_a_modality_without_cells():
    data = mosaic(FULL, ())
    with pytest.raises(InputError, match=r"mdata\['atac'\] has no cells\. Leave the modality out"):
        counts_of("atac").learn(data)


def test_a_modality_that_is_not_there_is_named_with_the_near_one():
    data = mosaic()
    for ask in (counts_of("rnaa").learn, lambda data: modality_of(data, "rnaa")):
        with pytest.raises(
            MissingKeyError, match=r"mdata has no modality 'rnaa'. Did you mean 'rna'. Modalities: rna, "
        ):
            ask(data)


def test_cells_in_none_of_the_modalities_are_named():
    data = mosaic(FULL, OTHERS)
    with pytest.raises(InputError, match=r"4 cells are in none of the modalities rna: 'cell6', .* Leave them out"):
        Present(("rna", None, None)).learn(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.log1p(), r"mdata\['rna'\]: X holds values that are not whole numbers .* log-normalised"),
        (lambda x: x * -1, r"mdata\['rna'\]: X holds negative values"),
        (lambda x: x * np.nan, r"mdata\['rna'\]: X holds NaN"),
    ],
    ids=["log", "negative", "nan"],
)
def test_what_is_no_count_is_refused_with_the_modality(spoil, message: str):
    data = mosaic()
    data["rna"].X = spoil(data["rna"].X)
    with pytest.raises(InputError, match=message):
        counts_of("rna").learn(data)


def test_lacking_features_are_refused_with_the_modality():
    source = counts_of("rna").learn(mosaic())
    with pytest.raises(InputError, match=r"mdata\['rna'\]: var_names lacks 1 of the model's 3 features: rna0"):
        source.read(multimodal({"rna": modality(FULL, "rna")[:, 1:].copy()}, mosaic(FULL, FULL).obs))


# ---- which of the fitted cells


def test_row_numbers_are_those_of_the_fit():
    data = mosaic()
    source = RowNumber(True).learn(data)
    np.testing.assert_array_equal(source.read(data), np.arange(9))
    order = np.random.default_rng(0).permutation(9)
    np.testing.assert_array_equal(source.read(data[order]), order)
    others = mosaic(range(7, 12), range(7, 12))
    rows = source.read(others)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, [7, 8, -1, -1, -1])


def test_row_numbers_that_are_not_kept_are_those_of_no_cell():
    source = RowNumber(False).learn(mosaic())
    assert source.names == ()
    np.testing.assert_array_equal(source.read(mosaic()), np.full(9, -1))


def test_row_numbers_need_names_that_tell_cells_apart():
    data = mosaic(FULL, FULL)
    for held in (data["rna"], data["atac"]):
        held.obs_names = ["twin", "twin", *held.obs_names[2:]]
    twins = MuData({"rna": data["rna"], "atac": data["atac"]})
    with pytest.raises(InputError, match="obs_names holds 'twin' more than once"):
        RowNumber(True).learn(twins)
    assert RowNumber(False).learn(twins).names == ()


# ---- what is remembered


@pytest.mark.parametrize(
    "source",
    [
        ModalityCounts("rna", Counts("counts", "chosen")),
        ModalityCounts("atac", Counts()),
        Present(("rna", None, "protein")),
        RowNumber(True),
        RowNumber(False),
    ],
    ids=str,
)
def test_memory_goes_through_json(source):
    data = mosaic()
    data["rna"].layers["counts"] = data["rna"].X.copy()
    data["rna"].var["chosen"] = [True, True, False]
    for one in (source, source.learn(data) if None not in getattr(source, "modalities", ()) else source):
        assert source_from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModalityCounts(3, Counts()),
        lambda: ModalityCounts("rna", "X"),
        lambda: Present(["rna"]),
        lambda: Present((3,)),
        lambda: RowNumber(1),
        lambda: RowNumber(True, ("a", "a")),
        lambda: source_from_dict({"kind": "Present", "modalities": ["rna"], "more": 1}),
        lambda: source_from_dict({"kind": "ModalityCounts", "modality": "rna", "counts": {"kind": "Count"}}),
    ],
    ids=["modality", "counts", "list", "name", "kept", "twice", "more", "kind"],
)
def test_what_is_no_description_is_refused(make):
    with pytest.raises(InputError):
        make()


# ---- copies


def test_a_copy_has_the_tables_of_the_original():
    data = mosaic(batch=list("aabbaacca"))
    data["rna"].obs["depth"] = 1.0
    data.obsm["X_true"] = np.arange(18.0).reshape(9, 2)
    copy = copied(data)
    pd.testing.assert_frame_equal(copy.obs, data.obs, check_dtype=False)  # pandas 3 has two texts that say NaN apart
    pd.testing.assert_frame_equal(copy.var, data.var)
    np.testing.assert_array_equal(copy.obsm["X_true"], data.obsm["X_true"])
    copy["rna"].X.data[:] = 0
    assert data["rna"].X.data.all()
