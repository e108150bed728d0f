"""The stored model: it comes back as it was, or a clear error comes. Nothing else, whatever is done to it."""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvi_pp import _logging
from scvi_pp._data import fitted as fitted_module
from scvi_pp._data.fitted import FORMAT, Fitted, check_save_model, from_record, history_from_record, to_record
from scvi_pp._data.sources import Categories, Category, Counts, Numbers, Positive
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError

# anndata 0.13 uses options that pandas 3.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated:DeprecationWarning"),
]


def fitted(seed: int = 0) -> Fitted:
    rng = np.random.default_rng(seed)
    return Fitted(
        model="scvi",
        sources={
            "counts": Counts(layer="counts", var_names=("gene0", "gène 1", "gene/2")),
            "batch": Category(("donor",), ("d1", "d2")),
            "covariates": Categories(("site", "phase"), (("x",), ("G1", "S"))),
            "numbers": Numbers(("age",), (60.5,), (12.25,)),
            "size_factor": Positive(None),
        },
        hyperparameters={"n_latent": 3 + seed, "dropout": 0.1, "likelihood": "zinb", "layers": [4, 4], "prior": None},
        weights={
            "encoder.0.weight": rng.normal(size=(4, 3)).astype(np.float32),
            "encoder.0.bias": rng.normal(size=4).astype(np.float64),
            "half": rng.normal(size=(2, 2, 2)).astype(np.float16),
            "n_batches": np.array(7, dtype=np.int64),
            "mask": np.array([[True, False, True]]),
            "none": np.zeros((0, 5), dtype=np.float32),
            "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
            **{t: np.arange(3, dtype=t) for t in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64")},
        },
        facts={"seed": seed, "device": "cpu", "n_obs": 30, "elbo": -1.5, "versions": {"torch": "2.13"}},
        history={"elbo_train": np.array([3.0, 2.0, 1.5]), "elbo_validation": np.array([3.5, np.nan], dtype=np.float32)},
        params={"n_latent": 3, "lr": 1e-3, "likelihood": "zinb", "early": True},
    )


def assert_same(one: Fitted, other: Fitted) -> None:
    for name in ("model", "sources", "hyperparameters", "facts", "params"):
        assert getattr(one, name) == getattr(other, name)
    assert one.weights.keys() == other.weights.keys()
    for name, weight in one.weights.items():
        assert weight.dtype == other.weights[name].dtype
        np.testing.assert_array_equal(weight, other.weights[name], strict=True)
    assert one.history.keys() == other.history.keys()
    for name, curve in one.history.items():
        np.testing.assert_array_equal(curve, other.history[name])


def cells(n: int = 4, prefix: str = "cell") -> ad.AnnData:
    index = [f"{prefix}{i}" for i in range(n)]
    return ad.AnnData(np.ones((n, 3), dtype=np.float32), obs=pd.DataFrame({"a": 1}, index=index))


def with_record(seed: int = 0, prefix: str = "cell", **kwargs: Any) -> ad.AnnData:
    data = cells(prefix=prefix)
    data.uns["scvi"] = to_record(fitted(seed), **kwargs)
    return data


def sha256(blob: np.ndarray) -> str:
    return hashlib.sha256(blob.tobytes()).hexdigest()


# ---- there and back


def test_record_has_the_documented_layout() -> None:
    record = to_record(fitted())
    assert list(record) == ["params", "history", "model"]
    assert record["params"] == {"n_latent": 3, "lr": 1e-3, "likelihood": "zinb", "early": True}
    for curve in record["history"].values():
        assert curve.dtype == np.float32
        assert curve.ndim == 1
    assert list(record["model"]) == ["format", "sha256", "blob"]
    blob = record["model"]["blob"]
    assert record["model"]["format"] == "scvi_pp/1"
    assert record["model"]["sha256"] == sha256(blob)
    assert blob.dtype == np.uint8
    assert blob.ndim == 1
    assert not blob.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        blob[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        blob.flags.writeable = True


def test_record_gives_the_same_model() -> None:
    assert_same(from_record({"scvi": to_record(fitted())}, "scvi"), fitted())


def test_same_model_gives_the_same_bytes() -> None:
    assert to_record(fitted())["model"]["sha256"] == to_record(fitted())["model"]["sha256"]
    assert to_record(fitted())["model"]["sha256"] != to_record(fitted(1))["model"]["sha256"]


def test_weights_read_back_are_aligned_and_own_their_memory() -> None:
    record = to_record(fitted())
    weights = from_record({"scvi": record}, "scvi").weights
    for weight in weights.values():
        assert weight.flags.aligned
        assert weight.flags.writeable
        assert weight.flags.c_contiguous
        assert not np.shares_memory(weight, record["model"]["blob"])


def test_blob_is_a_safetensors_file(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    to_record(fitted(), save_model=tmp_path / "model.safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(weights["weights.encoder.0.weight"], fitted().weights["encoder.0.weight"])


def test_params_are_flat_and_readable() -> None:
    params: Any = {"keys": ["a", "b"], "none": None, "n": np.int64(3), "rate": np.float32(0.5), "huge": 2**70}
    made = Fitted("scvi", {}, {}, {}, {}, {}, params)
    record = to_record(made)
    assert record["params"] == {"keys": "a, b", "n": 3, "rate": 0.5, "huge": str(2**70)}
    assert {type(value) for value in record["params"].values()} == {str, int, float}
    assert from_record({"scvi": record}, "scvi").params == record["params"]


def test_numpy_scalars_are_stored_as_plain_numbers() -> None:
    made = Fitted("scvi", {}, {"n": np.int64(3)}, {}, {"elbo": np.float32(0.5), "nan": float("nan")}, {}, {})  # type: ignore[dict-item]
    again = from_record({"scvi": to_record(made)}, "scvi")
    assert again.hyperparameters == {"n": 3}
    assert again.facts["elbo"] == 0.5
    assert again.facts["nan"] != again.facts["nan"]


@pytest.mark.parametrize("weight", [np.array(["a"]), np.array([1j]), np.array([None])], ids=str)
def test_weights_that_cannot_be_stored_are_refused(weight: np.ndarray) -> None:
    with pytest.raises(TypeError, match="cannot store"):
        to_record(Fitted("scvi", {}, {}, {"w": weight}, {}, {}, {}))


@pytest.mark.parametrize("name", ["a/b", "", "."])
def test_names_that_files_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        to_record(Fitted("scvi", {}, {}, {}, {}, {name: np.ones(1)}, {}))
    with pytest.raises(InputError):
        to_record(Fitted("scvi", {}, {}, {}, {}, {}, {name: 1}))


# ---- through files, copies, views and merges


def h5ad(data: ad.AnnData, folder: Path, **kwargs: Any) -> ad.AnnData:
    data.write_h5ad(folder / "a.h5ad", **kwargs)
    return ad.read_h5ad(folder / "a.h5ad")


def backed(data: ad.AnnData, folder: Path) -> ad.AnnData:
    data.write_h5ad(folder / "a.h5ad")
    return ad.read_h5ad(folder / "a.h5ad", backed="r")


def zarr(data: ad.AnnData, folder: Path) -> ad.AnnData:
    data.write_zarr(folder / "a.zarr")
    return ad.read_zarr(folder / "a.zarr")


WAYS: dict[str, Callable[[ad.AnnData, Path], ad.AnnData]] = {
    "h5ad": h5ad,
    "h5ad_gzip": lambda data, folder: h5ad(data, folder, compression="gzip"),
    "h5ad_backed": backed,
    "zarr": zarr,
    "h5ad_zarr_h5ad": lambda data, folder: h5ad(zarr(h5ad(data, folder), folder), folder),
    "copy": lambda data, _: data.copy(),
    "deepcopy": lambda data, _: copy.deepcopy(data),
    "view": lambda data, _: data[:2],
    "view_of_view": lambda data, _: data[:3][[1]],
    "view_copied": lambda data, _: data[:2].copy(),
    "genes_chosen": lambda data, _: data[:, :1].copy(),
}


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
@pytest.mark.parametrize("save_model", [True, "path"])
@pytest.mark.parametrize("way", WAYS)
def test_model_survives(way: str, save_model: Any, tmp_path: Path) -> None:
    data = with_record(save_model=tmp_path / "m.safetensors" if save_model == "path" else True)
    again = WAYS[way](data, tmp_path)
    assert_same(from_record(again.uns, "scvi"), fitted())
    for name, curve in history_from_record(again.uns, "scvi").items():
        np.testing.assert_array_equal(curve, fitted().history[name].astype(np.float32))
    assert dict(again.uns["scvi"]["params"]) == fitted().params
    again.file.close()


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_record_without_the_model_survives_and_says_what_is_missing(way: str, tmp_path: Path) -> None:
    again = WAYS[way](with_record(save_model=False), tmp_path)
    assert "model" not in again.uns["scvi"]
    assert set(history_from_record(again.uns, "scvi")) == {"elbo_train", "elbo_validation"}
    with pytest.raises(
        ModelRecordError, match=r"uns\['scvi'\] holds no model: .*save_model=False.*dropped by a concat"
    ):
        from_record(again.uns, "scvi")
    again.file.close()


MERGES = [None, "same", "unique", "first", "only"]


@pytest.mark.parametrize("merge", MERGES)
def test_merging_the_same_model_keeps_it_or_says_so(merge: Any) -> None:
    merged = ad.concat([with_record(0, "a"), with_record(0, "b")], uns_merge=merge)
    if merge in ("same", "unique", "first"):
        assert_same(from_record(merged.uns, "scvi"), fitted(0))
    else:
        with pytest.raises((MissingKeyError, ModelRecordError), match="concat|too little of it"):
            from_record(merged.uns, "scvi")


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("kinds", ["blob blob", "blob path", "path blob", "none blob", "blob none", "path path"])
def test_merging_two_models_gives_one_of_them_or_our_error(merge: Any, kinds: str, tmp_path: Path) -> None:
    save = {"blob": True, "none": False}
    parts = [
        with_record(i, prefix, save_model=save.get(kind, tmp_path / f"{i}.safetensors"))
        for i, (prefix, kind) in enumerate(zip("ab", kinds.split(), strict=True))
    ]
    merged = ad.concat(parts, uns_merge=merge)
    try:
        found = from_record(merged.uns, "scvi")
    except (MissingKeyError, ModelRecordError) as error:
        assert "uns" in str(error)
        assert merge != "first" or "mixed" in str(error)
    else:
        assert_same(found, fitted(int(found.facts["seed"])))  # type: ignore[arg-type]
        assert merge not in (None, "same")


@pytest.mark.parametrize("merge", MERGES)
def test_merging_with_data_without_a_model_keeps_it_or_says_so(merge: Any) -> None:
    merged = ad.concat([with_record(0, "a"), cells(prefix="b")], uns_merge=merge)
    if merge in ("unique", "first", "only"):
        assert_same(from_record(merged.uns, "scvi"), fitted(0))
    else:
        with pytest.raises(MissingKeyError, match="A concat drops uns"):
            from_record(merged.uns, "scvi")


def test_chimera_of_two_models_is_refused_as_such() -> None:
    record, other = to_record(fitted(0)), to_record(fitted(1))
    record["model"]["blob"] = other["model"]["blob"]
    with pytest.raises(ModelRecordError, match=r"does not match its checksum .* concat mixed two models"):
        from_record({"scvi": record}, "scvi")


@pytest.mark.skipif(not hasattr(ad.AnnData, "unwriteable"), reason="anndata before 0.13 has no such check")
def test_anndata_finds_nothing_it_cannot_write() -> None:
    assert not with_record().unwriteable()


# ---- files of their own


def test_path_puts_the_model_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for save_model in (path, str(path)):
        record = to_record(fitted(), save_model=save_model)
        assert record["model"] == {"format": FORMAT, "sha256": sha256(np.fromfile(path, np.uint8)), "path": str(path)}
        assert_same(from_record({"scvi": record}, "scvi"), fitted())
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_relative_path_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = to_record(fitted(), save_model="model.safetensors")
    monkeypatch.chdir("/")
    assert_same(from_record({"scvi": record}, "scvi"), fitted())


def test_moved_file_is_found_at_the_path_the_message_asks_for(tmp_path: Path) -> None:
    data = with_record(save_model=tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "moved")
    with pytest.raises(
        ModelRecordError, match=r"model\.safetensors' cannot be read .*set adata\.uns\['scvi'\]\['model'\]"
    ):
        from_record(data.uns, "scvi")
    data.uns["scvi"]["model"]["path"] = str(tmp_path / "moved")
    assert_same(from_record(data.uns, "scvi"), fitted())


def test_file_of_another_model_is_refused(tmp_path: Path) -> None:
    record = to_record(fitted(0), save_model=tmp_path / "m")
    to_record(fitted(1), save_model=tmp_path / "m")
    with pytest.raises(ModelRecordError, match="checksum"):
        from_record({"scvi": record}, "scvi")


@pytest.mark.parametrize("path", ["/dev/zero", "/", "a\0b", "", 3, None, ["a"]], ids=repr)
def test_paths_that_are_no_files_are_refused(path: Any, tmp_path: Path) -> None:
    record = to_record(fitted(), save_model=tmp_path / "m")
    record["model"]["path"] = path
    with pytest.raises(ModelRecordError):
        from_record({"scvi": record}, "scvi")


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = to_record(fitted(0), save_model=tmp_path / "m")

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fitted_module.os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        to_record(fitted(1), save_model=tmp_path / "m")
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
    assert_same(from_record({"scvi": record}, "scvi"), fitted(0))


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    study = tmp_path / "study.h5ad"
    cells().write_h5ad(study)
    before = study.read_bytes()
    (tmp_path / "empty").touch()
    for path in (study, tmp_path / "empty", tmp_path, "/dev/null"):
        with pytest.raises(InputError, match="is there already and is no model"):
            to_record(fitted(), save_model=path)
    assert study.read_bytes() == before


@pytest.mark.parametrize("save_model", [None, 1, 0, "", b"m", ["m"]], ids=repr)
def test_save_model_takes_a_bool_or_a_path(save_model: Any) -> None:
    with pytest.raises(InputError, match="save_model takes True, False or a path"):
        check_save_model(save_model)


def test_missing_folder_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder '.*missing' is missing or read-only"):
        check_save_model(tmp_path / "missing" / "m.safetensors")
    assert check_save_model(tmp_path / "m") == tmp_path / "m"
    assert check_save_model(True) is True
    assert check_save_model(False) is False


def test_large_model_is_reported_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(_logging, "info", said.append)
    to_record(fitted())
    assert said == []
    to_record(Fitted("scvi", {}, {}, {"w": np.zeros(17_000_000, dtype=np.float32)}, {}, {}, {}))
    assert len(said) == 1
    assert "68 MB" in said[0]
    assert "save_model='model.safetensors'" in said[0]


# ---- odd but whole


def test_text_may_come_back_as_numpy_text() -> None:
    record = to_record(fitted())
    model = record["model"]
    for kind in (np.str_, np.array, lambda text: np.array(text, dtype=object)):
        stored = {**model, "format": kind(model["format"]), "sha256": kind(model["sha256"])}
        assert_same(from_record({"scvi": {**record, "model": stored}}, "scvi"), fitted())


def test_damaged_curves_in_uns_do_not_touch_those_of_the_model() -> None:
    record = to_record(fitted())
    record["history"]["elbo_train"] = np.array(["a"])
    assert_same(from_record({"scvi": record}, "scvi"), fitted())
    with pytest.raises(ModelRecordError, match=r"uns\['scvi'\]\['history'\]: a training curve holds some"):
        history_from_record({"scvi": record}, "scvi")
