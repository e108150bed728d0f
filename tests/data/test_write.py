"""Results are written all or not at all, and under keys that every file format takes."""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvi_pp._data.write import check_key, check_writable, key_names, write
from scvi_pp._errors import InputError

# anndata 0.13 uses options that pandas 3.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated:DeprecationWarning"),
]

N_CELLS, N_GENES = 6, 4


def cells() -> ad.AnnData:
    x = np.arange(N_CELLS * N_GENES, dtype=np.float32).reshape(N_CELLS, N_GENES)
    data = ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame({"batch": list("ababab")}, index=list("uvwxyz")))
    data.obsm["X_old"] = np.ones((N_CELLS, 2))
    data.layers["old"] = np.ones((N_CELLS, N_GENES))
    data.uns["old"] = {"a": 1}
    return data


def results(n: int = N_CELLS, seed: int = 0) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return {
        "obsm": {"X_scvi": rng.normal(size=(n, 3)).astype(np.float32)},
        "layers": {"scvi_denoised": rng.normal(size=(n, N_GENES)).astype(np.float32)},
        "uns": {"scvi": {"params": {"n_latent": 3}}},
        "obs": {"confidence": rng.uniform(size=n)},
    }


def contents(data: ad.AnnData) -> dict[str, Any]:
    layers = {name: np.array(data.layers[name]) for name in data.layers if name is not None}
    return {
        "obs": data.obs.copy(),
        "X": data.X.toarray(),
        "uns": dict(data.uns),
        **{f"obsm {name}": np.array(data.obsm[name]) for name in data.obsm},
        **{f"layers {name}": layer for name, layer in layers.items()},
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    pd.testing.assert_frame_equal(one["obs"], other["obs"])
    assert one["uns"] == other["uns"]
    for name in one.keys() - {"obs", "uns"}:
        np.testing.assert_array_equal(one[name], other[name])


def test_everything_is_written_and_nothing_else() -> None:
    data, expected = cells(), results()
    before = contents(data)
    assert write(data, **expected) is None
    for place, entries in expected.items():
        for key, value in entries.items():
            np.testing.assert_array_equal(getattr(data, place)[key], value)
            del getattr(data, place)[key]
    assert_same(contents(data), before)


def test_writing_twice_replaces() -> None:
    data = cells()
    write(data, **results(seed=0))
    write(data, **results(seed=1))
    np.testing.assert_array_equal(data.obsm["X_scvi"], results(seed=1)["obsm"]["X_scvi"])


def test_view_becomes_an_object_of_its_own_and_the_parent_stays() -> None:
    data = cells()
    before = contents(data)
    view = data[[4, 1]]
    write(view, **results(2))
    assert not view.is_view
    assert list(view.obs_names) == ["y", "v"]
    np.testing.assert_array_equal(view.obsm["X_scvi"], results(2)["obsm"]["X_scvi"])
    assert_same(contents(data), before)


class Stop:
    """An entry that cannot be assigned: AnnData asks for its shape first and then fails at what it is."""

    def __init__(self, error: BaseException, shape: tuple[int, ...]) -> None:
        self.error, self.shape, self.n_asked = error, shape, 0

    def __getattribute__(self, name: str) -> Any:
        if name == "shape":
            count = object.__getattribute__(self, "n_asked") + 1
            object.__setattr__(self, "n_asked", count)
            if count > 1:
                raise object.__getattribute__(self, "error")
        return object.__getattribute__(self, name)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), ValueError("no")], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("written_before", [False, True])
@pytest.mark.parametrize("place", ["obsm", "layers"])
def test_failure_half_way_leaves_the_object_as_it_was(place: str, written_before: bool, error: BaseException) -> None:
    data = cells()
    if written_before:
        write(data, **results(seed=0))
    before = contents(data)
    new = results(seed=1)
    new[place]["last"] = Stop(error, (N_CELLS, N_GENES))
    with pytest.raises(type(error)):
        write(data, **new)
    assert_same(contents(data), before)


def test_interrupt_at_any_assignment_leaves_the_object_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pd.DataFrame.__setitem__

    def interrupted(self: pd.DataFrame, key: Any, value: Any) -> None:
        original(self, key, value)
        if key == "second":
            raise KeyboardInterrupt

    data = cells()
    write(data, **results(seed=0))
    before = contents(data)
    new = results(seed=1)
    new["obs"] |= {"second": np.zeros(N_CELLS)}
    monkeypatch.setattr(pd.DataFrame, "__setitem__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(data, **new)
    monkeypatch.undo()
    assert_same(contents(data), before)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("obsm", np.ones((N_CELLS - 1, 2))),
        ("obsm", np.ones(N_CELLS)),
        ("layers", np.ones((N_CELLS, N_GENES + 1))),
        ("obs", np.ones(N_CELLS + 1)),
        ("obs", pd.Series(np.ones(N_CELLS))),
        ("obsm", pd.DataFrame(np.ones((N_CELLS, 2)))),
    ],
)
def test_results_that_do_not_fit_are_refused_before_anything_is_written(place: str, value: Any) -> None:
    data = cells()
    view = data[:]
    new = results()
    new[place]["wrong"] = value
    before = contents(data)
    with pytest.raises(InputError, match=r"Nothing was written"):
        write(view, **new)
    assert view.is_view
    assert_same(contents(data), before)


def test_sparse_layers_frames_and_categories_are_written() -> None:
    data = cells()
    frame = pd.DataFrame(np.ones((N_CELLS, 2)), index=data.obs_names, columns=["a", "b"])
    labels = pd.Categorical(list("ppqqpp"))
    write(data, obsm={"frame": frame}, layers={"sparse": data.X.copy()}, uns={}, obs={"label": labels})
    assert data.obsm["frame"].equals(frame)
    assert (data.layers["sparse"] != data.X).nnz == 0
    assert list(data.obs["label"].cat.categories) == ["p", "q"]


def test_backed_object_takes_results_and_its_view_is_refused(tmp_path: Any) -> None:
    cells().write_h5ad(tmp_path / "a.h5ad")
    data = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    write(data, **results())
    np.testing.assert_array_equal(data.obsm["X_scvi"], results()["obsm"]["X_scvi"])
    with pytest.raises(InputError, match=r"view of a file on disk .* adata = adata\.to_memory\(\)"):
        write(data[:2], **results(2))
    with pytest.raises(InputError, match="view of a file"):
        check_writable(data[:2])
    data.file.close()


@pytest.mark.parametrize("file_format", ["h5ad", "zarr"])
@pytest.mark.parametrize("key_added", [None, "foo", "a b é", "enc.0"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_results_can_be_saved_under_every_key_that_is_accepted(
    key_added: str | None, file_format: str, tmp_path: Any
) -> None:
    obsm_key, uns_key, layer_key = key_names("scvi", key_added)
    data, new = cells(), results()
    write(
        data,
        obsm={obsm_key: new["obsm"]["X_scvi"]},
        layers={layer_key: new["layers"]["scvi_denoised"]},
        uns={uns_key: new["uns"]["scvi"]},
    )
    save = data.write_h5ad if file_format == "h5ad" else data.write_zarr
    save(tmp_path / f"a.{file_format}")


def test_key_added_replaces_names_as_in_scanpy() -> None:
    assert key_names("scvi", None) == ("X_scvi", "scvi", "scvi_denoised")
    assert key_names("scvi", "foo") == ("foo", "foo", "foo_denoised")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a/", "a\0b", "\ud800", 3, None, b"a", ["a"]], ids=repr)
def test_keys_that_break_files_are_refused(name: Any) -> None:
    with pytest.raises(InputError, match="key_added"):
        check_key(name)
    if name is not None:
        with pytest.raises(InputError, match="key_added"):
            key_names("scvi", name)
    if isinstance(name, str):
        data = cells()
        with pytest.raises(InputError):
            write(data, obsm={name: np.ones((N_CELLS, 1))}, layers={}, uns={"scvi": {}})
        assert "scvi" not in data.uns
