"""A fitted model and its cells, from an object, a file or an entry of uns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvi_pp._data.counts import Counts
from scvi_pp._data.fitted import Fitted, to_record
from scvi_pp._data.reference import open_reference
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.usefixtures("quiet"),
]


def model(number: float = 1.0) -> Fitted:
    return Fitted(
        model="scvi",
        sources={"counts": Counts(var_names=("a", "b"))},
        hyperparameters={"n_latent": 2},
        weights={"w": np.full(3, number, np.float32)},
        facts={"n_obs": 4, "n_epochs": 1},
        history={"elbo_train": np.zeros(1, np.float32)},
        params={"model": "scvi"},
    )


def fitted(**records: Any) -> ad.AnnData:
    adata = ad.AnnData(np.zeros((4, 2), np.float32), obs=pd.DataFrame({"type": list("xyxy")}, index=list("abcd")))
    adata.obsm["X_scvi"] = np.arange(8, dtype=np.float32).reshape(4, 2)
    for key, record in (records or {"scvi": to_record(model())}).items():
        adata.uns[key] = record
    return adata


def stored(adata: ad.AnnData, kind: str, tmp_path: Path) -> Any:
    if kind == "object":
        return adata
    path = tmp_path / f"cells.{kind}"
    (adata.write_zarr if kind == "zarr" else adata.write_h5ad)(path)
    return path if kind == "h5ad" else str(path)


@pytest.mark.parametrize("kind", ["object", "h5ad", "zarr"])
def test_model_latent_space_and_columns_are_found(kind: str, tmp_path: Path):
    adata = fitted()
    found = open_reference(stored(adata, kind, tmp_path))
    assert (found.key, found.key_added, found.stored.model) == ("scvi", None, "scvi")
    assert found.sha256 == adata.uns["scvi"]["model"]["sha256"]
    np.testing.assert_array_equal(found.latent, adata.obsm["X_scvi"])
    assert found.data.obs["type"].tolist() == list("xyxy")
    assert found.has_counts == (kind == "object")
    np.testing.assert_array_equal(found.stored.weights["w"], np.ones(3))


@pytest.mark.parametrize("kind", ["object", "h5ad", "zarr"])
def test_one_of_several_is_found_by_name_or_by_checksum(kind: str, tmp_path: Path):
    adata = fitted(scvi=to_record(model()), other=to_record(model(2.0)))
    adata.obsm["other"] = np.ones((4, 2), np.float32)
    place = stored(adata, kind, tmp_path)
    named = open_reference(place, "other")
    assert (named.key, named.key_added) == ("other", "other") and (named.latent == 1).all()
    assert open_reference(place, sha256=named.sha256).key == "other"
    with pytest.raises(InputError, match="uns holds 2 fitted models. Say which one"):
        open_reference(place)
    with pytest.raises(InputError, match="does not hold the model that the query was mapped onto"):
        open_reference(place, sha256="0" * 64)


def test_an_entry_of_uns_is_a_model_without_cells():
    record = fitted().uns["scvi"]
    found = open_reference(record)
    assert (found.key, found.data, found.latent, found.has_counts) == ("scvi", None, None, False)


def test_a_model_in_a_file_of_its_own(tmp_path: Path):
    to_record(model(), save_model=tmp_path / "model.safetensors")
    found = open_reference(tmp_path / "model.safetensors")
    assert found.stored.model == "scvi" and found.data is None


def test_positions_of_another_length_are_none():
    adata = fitted()
    adata.obsm["X_scvi"] = np.zeros((4, 3), np.float32)
    assert open_reference(adata).latent is None
    del adata.obsm["X_scvi"]
    assert open_reference(adata).latent is None


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        (3, InputError, "reference=int holds no fitted model. Give the AnnData or MuData of the fit"),
        ("nowhere.h5ad", InputError, r"reference='nowhere.h5ad' is not there\."),
        ({"params": {}}, ModelRecordError, "the reference: "),
        (ad.AnnData(np.zeros((2, 2))), MissingKeyError, "the reference: uns holds no fitted model"),
    ],
)
def test_what_holds_no_model_is_refused(reference: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        open_reference(reference)


def test_files_of_another_kind_are_refused(tmp_path: Path):
    (tmp_path / "cells.csv").write_text("a,b")
    with pytest.raises(InputError, match="is none of the files that hold a model"):
        open_reference(tmp_path / "cells.csv")
    import h5py

    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="holds neither an AnnData nor a MuData"):
        open_reference(tmp_path / "other.h5ad")


def test_a_damaged_model_is_refused_and_says_where(tmp_path: Path):
    adata = fitted()
    adata.uns["scvi"]["model"]["blob"] = adata.uns["scvi"]["model"]["blob"].copy()
    adata.uns["scvi"]["model"]["blob"][-1] ^= 1
    with pytest.raises(ModelRecordError, match=r"^the reference: uns\['scvi'\]: the stored model does not match"):
        open_reference(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ModelRecordError, match=r"^'.*cells\.h5ad': uns\['scvi'\]"):
        open_reference(tmp_path / "cells.h5ad")
