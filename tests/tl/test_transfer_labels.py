"""tl.transfer_labels: labels of a reference for the cells of a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvi_pp as svp
from scvi_pp import tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_only_added, assert_same, contents
from tests.fits import fit
from tests.studies import Judge, seeds
from tests.tl.test_map_query import query_for

pytestmark = pytest.mark.usefixtures("quiet")

PLACES = {"obsm[type_transferred_probabilities]", "uns[type_transferred]"}


def mapped(name: str = "zinb", **options: Any) -> ad.AnnData:
    query = query_for(name)
    tl.map_query(query, fit(name), **{"max_epochs": 0, **options})
    return query


def by_hand(reference: np.ndarray, labels: np.ndarray, query: np.ndarray, n: int) -> np.ndarray:
    """The share of each label among the nearest, by the inverse of the distance; of cells in one place those alone."""
    shares = np.zeros((len(query), len(np.unique(labels))))
    for cell, position in enumerate(query):
        distance = np.linalg.norm(reference - position, axis=1)
        for near in np.argsort(distance)[:n]:
            weight = float(distance[near] == 0) if (distance == 0).any() else 1 / distance[near]
            shares[cell, np.searchsorted(np.unique(labels), labels[near])] += weight
    return shares / shares.sum(1, keepdims=True)


def clearly_placed(reference: np.ndarray, query: np.ndarray, n: int) -> np.ndarray:
    """Cells for which rounding in another block of cells decides neither who the neighbours are nor how near they lie."""
    distance = np.sort(np.linalg.norm(reference - query[:, None], axis=2), axis=1)
    rounding = 1e-6 * max(np.abs(reference).max(), np.abs(query).max())
    return (distance[:, 0] > 1000 * rounding) & (distance[:, n] - distance[:, n - 1] > 10 * rounding)


def test_each_cell_has_the_label_of_its_nearest_weighted_by_distance():
    query, reference = mapped(), fit("zinb")
    before = contents(query)
    assert tl.transfer_labels(query, reference, labels_key="type", n_neighbors=7) is None
    assert_only_added({**before, "obs": query.obs}, query, PLACES)
    pd.testing.assert_frame_equal(query.obs.iloc[:, :-2], before["obs"])
    labels = reference.obs["type"].to_numpy().astype(str)
    expected = by_hand(reference.obsm["X_scvi"], labels, query.obsm["X_scvi"], 7)
    np.testing.assert_allclose(query.obsm["type_transferred_probabilities"], expected, rtol=1e-4)
    found = query.obs["type_transferred"]
    assert list(found.cat.categories) == ["t0", "t1"]
    assert found.tolist() == [["t0", "t1"][best] for best in expected.argmax(1)]
    np.testing.assert_allclose(query.obs["type_transferred_uncertainty"], 1 - expected.max(1), rtol=1e-4, atol=1e-7)
    assert query.uns["type_transferred"]["params"]["n_neighbors"] == 7


def test_cells_of_the_reference_keep_their_own_labels():
    """What has no distance to a cell is all that counts: itself, where no other has the same counts."""
    reference = fit("zinb")
    query = reference.copy()
    tl.map_query(query, reference, max_epochs=0)
    tl.transfer_labels(query, reference, labels_key="type")
    alone = ~pd.DataFrame(reference.obsm["X_scvi"]).duplicated(keep=False).to_numpy()
    assert alone.any()
    assert (query.obs["type_transferred"] == query.obs["type"])[alone].all()
    assert (query.obs["type_transferred_uncertainty"] == 0)[alone].all()


def test_cells_in_doubt_are_unknown_on_request():
    query = mapped()
    tl.transfer_labels(query, fit("zinb"), labels_key="type", max_uncertainty=0.3, key_added="mine")
    doubtful = query.obs["mine_uncertainty"] > 0.3
    assert 0 < doubtful.sum() < query.n_obs
    assert ((query.obs["mine"] == "unknown") == doubtful).all()
    assert list(query.obs["mine"].cat.categories) == ["t0", "t1", "unknown"]
    assert query.obsm["mine_probabilities"].shape == (40, 2)


def test_unknown_may_be_a_label_of_the_reference():
    reference, query = fit("zinb").copy(), mapped()
    reference.obs["type"] = reference.obs["type"].astype(str).replace("t1", "unknown")
    tl.transfer_labels(query, reference, labels_key="type", max_uncertainty=0.3)
    assert query.obs["type_transferred"].cat.categories.tolist() == ["t0", "unknown"]
    assert (query.obs["type_transferred"][query.obs["type_transferred_uncertainty"] > 0.3] == "unknown").all()


def test_cells_without_a_label_are_left_out():
    reference = fit("zinb").copy()
    reference.obs.loc[reference.obs["type"] == "t1", "type"] = np.nan
    query = mapped()
    tl.transfer_labels(query, reference, labels_key="type")
    assert query.obs["type_transferred"].cat.categories.tolist() == ["t0"]


def test_the_reference_may_be_a_file(tmp_path: Path):
    fit("zinb").write_h5ad(tmp_path / "atlas.h5ad")
    expected = tl.transfer_labels(mapped(), fit("zinb"), labels_key="type", copy=True)
    query = mapped()
    tl.transfer_labels(query, tmp_path / "atlas.h5ad", labels_key="type")
    pd.testing.assert_frame_equal(query.obs, expected.obs)
    query.write_h5ad(tmp_path / "query.h5ad")
    again = ad.read_h5ad(tmp_path / "query.h5ad")
    assert again.obs["type_transferred"].tolist() == query.obs["type_transferred"].tolist()


def test_a_reference_that_was_moved_is_asked_where_its_cells_are_now(tmp_path: Path):
    query = mapped(unfrozen="all", max_epochs=2)
    tl.transfer_labels(query, fit("zinb"), labels_key="type")
    moved = svp.get.latent(query, adata_new=fit("zinb"))
    labels = fit("zinb").obs["type"].to_numpy().astype(str)
    clear = clearly_placed(moved, query.obsm["X_scvi"], 15)
    assert clear.sum() > 20
    expected = by_hand(moved, labels, query.obsm["X_scvi"], 15)
    np.testing.assert_allclose(query.obsm["type_transferred_probabilities"][clear], expected[clear], rtol=1e-2)
    fit("zinb").write_h5ad(tmp_path / "atlas.h5ad")
    with pytest.raises(
        InputError, match="all of the model was trained on the query.* Read the file, and give the object"
    ):
        tl.transfer_labels(query, tmp_path / "atlas.h5ad", labels_key="type")


def test_the_model_is_found_by_what_it_is_not_by_its_name():
    reference = fit("zinb").copy()
    reference.uns["first"], reference.obsm["first"] = reference.uns.pop("scvi"), reference.obsm.pop("X_scvi")
    tl.scvi(reference, batch_key="batch", denoise=False, key_added="second", **QUICK)
    query = query_for("zinb")
    tl.map_query(query, reference, key="first", key_added="mine", max_epochs=0)
    tl.transfer_labels(query, reference, labels_key="type")
    expected = tl.transfer_labels(mapped(), fit("zinb"), labels_key="type", copy=True)
    assert query.obs["type_transferred"].tolist() == expected.obs["type_transferred"].tolist()


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "column": ({"labels_key": "tpye"}, MissingKeyError, "obs has no column 'tpye'. Did you mean 'type'"),
    "neighbors": ({"n_neighbors": 0}, InputError, "n_neighbors=0 must be a whole number of at least 1"),
    "uncertainty": ({"max_uncertainty": 2}, InputError, "max_uncertainty=2 must be a number from 0 to 1"),
    "name": ({"key_added": "a/b"}, InputError, "cannot be a key in an h5ad"),
    "key": ({"key": "other"}, MissingKeyError, r"uns\['other'\] of the query does not come from a mapping"),
    "reference": ({"reference": "nowhere.h5ad"}, InputError, "is not there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_changes(case: str):
    options, error, message = REFUSED[case]
    query = mapped()
    before = contents(query)
    with pytest.raises(error, match=message):
        tl.transfer_labels(query, **{"reference": fit("zinb"), "labels_key": "type", **options})
    assert_same(contents(query), before)


def test_a_fit_is_no_mapping_and_another_reference_is_refused():
    with pytest.raises(InputError, match=r"uns\['scvi'\] of the query does not come from a mapping"):
        tl.transfer_labels(fit("nb").copy(), fit("zinb"), labels_key="type")
    with pytest.raises(InputError, match="it does not hold the model that the query was mapped onto"):
        tl.transfer_labels(mapped(), fit("nb"), labels_key="type")
    reference = fit("zinb").copy()
    reference.obs["type"] = np.nan
    with pytest.raises(InputError, match="has no label in any cell"):
        tl.transfer_labels(mapped(), reference, labels_key="type")
    with pytest.raises(InputError, match="reference is an entry of uns, which has no cells"):
        tl.transfer_labels(mapped(), fit("zinb").uns["scvi"], labels_key="type")


@pytest.mark.slow
def test_types_of_a_batch_that_was_left_out_are_found(judge: Judge):
    """The largest type has a third of the cells."""
    accuracies = []
    for seed in seeds(1):
        adata = svp.datasets.simulate_rna(1500, 300, n_types=5, n_batches=3, type_separation=4.0, rng=seed)
        is_new = (adata.obs["batch"] == "batch2").to_numpy()
        reference, query = adata[~is_new].copy(), adata[is_new].copy()
        tl.scvi(reference, batch_key="batch", denoise=False, rng=seed)
        tl.map_query(query, reference, rng=seed)
        tl.transfer_labels(query, reference, labels_key="cell_type")
        right = query.obs["cell_type_transferred"].astype(str) == query.obs["cell_type"].astype(str)
        accuracies.append(right.mean())
    judge("transfer_labels: accuracy in a batch that was left out", accuracies, above=0.85)


@pytest.mark.slow
def test_types_of_a_study_of_blood_are_found_from_three_others(real_data: Path, judge: Judge):
    """Measured: 0.90 of the labels are right, where the largest type has half of the cells."""
    cells = ad.read_h5ad(real_data / "pbmc_5batches_merged.h5ad")
    cells = cells[cells.obs["batch"] != "kang_stim", :2000].copy()  # genes as they come
    is_query = (cells.obs["batch"] == "10x_pbmc3k").to_numpy()
    reference, query = cells[~is_query].copy(), cells[is_query].copy()
    tl.scvi(reference, batch_key="batch", denoise=False, max_epochs=8, rng=seeds(1)[0])
    tl.map_query(query, reference)
    tl.transfer_labels(query, reference, labels_key="label_coarse")
    known = query.obs["label_coarse"].isin(reference.obs["label_coarse"].unique())
    right = (query.obs["label_coarse_transferred"].astype(str) == query.obs["label_coarse"].astype(str))[known]
    judge("transfer_labels: accuracy in a study of blood", right.mean(), above=0.85)
    np.testing.assert_array_equal(svp.get.latent(query, adata_new=reference), reference.obsm["X_scvi"])
