"""What every model verb promises, whatever its model: the verbs, and the words in which the promises are written.

The promises are the tests of test_contract.py (what is written, randomness, failures) and test_contract_inputs.py (what
may be handed over). A new verb keeps them all by adding itself to `VERBS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scvi_pp as svp


def small_counts(n_obs: int = 60, n_vars: int = 20, seed: int = 0) -> ad.AnnData:
    """Counts of two groups of cells in two batches, in an object that holds a bit of everything."""
    rng = np.random.default_rng(seed)
    group = np.arange(n_obs) % 3 == 0
    rate = rng.gamma(2.0, 1.0, n_vars) * np.where(group[:, None], rng.gamma(1.0, 1.0, n_vars), 1.0)
    x = sp.csr_matrix(rng.poisson(rate * rng.gamma(3.0, 0.3, (n_obs, 1))).astype(np.float32))
    return _with_a_bit_of_everything(x, group, [f"gene{i}" for i in range(n_vars)], rng)


def small_fragments(n_obs: int = 60, n_vars: int = 20, seed: int = 0) -> ad.AnnData:
    """The same of chromatin: which regions are open, and how many fragments they have, most of them one."""
    rng = np.random.default_rng(seed)
    group = np.arange(n_obs) % 3 == 0
    chance = np.where(group[:, None], rng.beta(2.0, 3.0, n_vars), rng.beta(2.0, 3.0, n_vars))
    is_open = rng.uniform(size=(n_obs, n_vars)) < chance * rng.beta(4.0, 2.0, (n_obs, 1))
    is_open[:, 1:2] |= ~is_open[:, 1:4].any(1, keepdims=True)  # no cell is empty, whatever the seed
    x = sp.csr_matrix((is_open * (1 + rng.poisson(0.4, is_open.shape))).astype(np.float32))
    return _with_a_bit_of_everything(x, group, [f"region{i}" for i in range(n_vars)], rng)


def _with_a_bit_of_everything(
    x: sp.csr_matrix, group: np.ndarray, names: list[str], rng: np.random.Generator
) -> ad.AnnData:
    n_obs, n_vars = x.shape
    batch = pd.Categorical(np.where(np.arange(n_obs) % 2, "b1", "b0"))
    obs = pd.DataFrame({"batch": batch, "group": group}, index=[f"cell{i}" for i in range(n_obs)])
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=names))
    adata.raw = adata.copy()
    adata.layers["counts"] = x.copy()
    adata.layers["lognorm"] = x.log1p()
    adata.obsm["X_pca"] = rng.normal(size=(n_obs, 2))
    adata.varm["loadings"] = rng.normal(size=(n_vars, 2))
    adata.obsp["distances"] = sp.eye(n_obs, format="csr")
    adata.uns["neighbors"] = {"params": {"n_neighbors": 15}}
    return adata


@dataclass(frozen=True)
class Verb:
    """A model verb with the little data and the options that make its fit a matter of milliseconds."""

    call: Callable[..., Any]
    data: Callable[..., ad.AnnData] = small_counts  # (n_obs, n_vars, seed): counts in X, obs["batch"] with b0 and b1
    quick: Mapping[str, Any] = field(default_factory=dict)
    writes_denoised: bool = True
    writes_loadings: bool = False
    writes_labels: bool = False
    features: str = "genes"  # what the model calls the columns of its data
    refuses_nothing_but_zeros: bool = False

    @property
    def name(self) -> str:
        return self.call.__name__

    def __str__(self) -> str:
        return self.name

    def __call__(self, adata: ad.AnnData, **options: Any) -> ad.AnnData | None:
        return self.call(adata, **{**self.quick, **options})

    def latent(self, adata: ad.AnnData, **options: Any) -> np.ndarray:
        """What a fit on (a copy of) this object writes as its latent."""
        fitted = self(adata, **{"denoise": False, **options}, copy=True)
        return fitted.obsm[options.get("key_added", f"X_{self.name}")]

    def written(self, key_added: str | None = None) -> set[str]:
        """The places that the docstring lists."""
        stem = key_added or self.name
        places = {f"obsm[{key_added or f'X_{stem}'}]", f"uns[{stem}]"}
        places |= {f"varm[{stem}_loadings]"} if self.writes_loadings else set()
        if self.writes_labels:
            places |= {f"obs[{stem}]", f"obs[{stem}_entropy]", f"obsm[{stem}_probabilities]"}
        return places | ({f"layers[{stem}_denoised]"} if self.writes_denoised else set())


QUICK = {"max_epochs": 1, "n_latent": 2, "n_hidden": 4, "device": "cpu"}
VERBS = [
    Verb(svp.tl.scvi, quick=QUICK),
    Verb(svp.tl.linear_scvi, quick=QUICK, writes_loadings=True),
    Verb(svp.tl.scanvi, quick={**QUICK, "labels_key": "group"}, writes_labels=True),
    Verb(svp.tl.peakvi, small_fragments, QUICK, features="regions", refuses_nothing_but_zeros=True),
    Verb(svp.tl.poissonvi, small_fragments, QUICK, features="regions", refuses_nothing_but_zeros=True),
]


_FITS: dict[tuple[Any, ...], ad.AnnData] = {}


def fitted(verb: Verb, n_obs: int = 60, **options: Any) -> ad.AnnData:
    """A copy of a fit that is made once in a process: for promises about what comes after it."""
    key = (verb.name, n_obs, *sorted(options.items()))
    if key not in _FITS:
        _FITS[key] = verb.data(n_obs)
        verb(_FITS[key], **options)
    return _FITS[key].copy()


def latent_of_default(verb: Verb) -> np.ndarray:
    """What a fit with no option writes as its latent."""
    return fitted(verb).obsm[f"X_{verb.name}"]


def contents(adata: ad.AnnData) -> dict[str, Any]:
    """Everything an object holds, copied, by the name of its place."""
    found: dict[str, Any] = {"X": adata.X, "obs": adata.obs, "var": adata.var}
    for place in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
        found |= {f"{place}[{key}]": value for key, value in getattr(adata, place).items() if key is not None}
    if adata.raw is not None:
        found |= {"raw.X": adata.raw.X, "raw.var": adata.raw.var}
    return {name: copy.deepcopy(value) for name, value in found.items()}


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, in type, and in how a matrix is stored."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}[{key}]")
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=where or "frame")
    elif sp.issparse(one):
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part), where, strict=True)
        assert one.shape == other.shape, where
    elif isinstance(one, np.ndarray):
        assert one.flags.f_contiguous == other.flags.f_contiguous, where
        np.testing.assert_array_equal(one, other, where, strict=True)
    else:
        assert one == other, where


def assert_only_added(before: dict[str, Any], adata: ad.AnnData, added: set[str]) -> None:
    """The object holds what it held, bit by bit, and these places, which may have been there before."""
    after = contents(adata)
    columns = [name for name in after["obs"] if f"obs[{name}]" in added]
    after |= {f"obs[{name}]": after["obs"].pop(name) for name in columns}
    before = {**before, "obs": before["obs"].drop(columns=columns, errors="ignore")}
    assert set(after) == set(before) | added
    kept = [name for name in after if name not in added]
    assert_same({name: before[name] for name in kept}, {name: after[name] for name in kept})


def stored_in_every_way(x: sp.csr_matrix) -> dict[str, Any]:
    """The same counts, as people have them."""
    dense = x.toarray()
    with_zeros = sp.csr_matrix(dense + 1)
    with_zeros.data -= 1
    ways = {
        "csr": x,
        "csc": x.tocsc(),
        "csr_array": sp.csr_array(x),
        "csc_array": sp.csc_array(x),
        "csr_unsorted": _unsorted(x),
        "csr_with_stored_zeros": with_zeros,
        "csr_int64": x.astype(np.int64),
        "csr_uint16": x.astype(np.uint16),
        "csr_float64": x.astype(np.float64),
        "dense": dense,
        "dense_fortran": np.asfortranarray(dense),
        "dense_int32": dense.astype(np.int32),
        "dense_uint16": dense.astype(np.uint16),
        "dense_float64": dense.astype(np.float64),
        "dense_read_only": dense.copy(),
        "csr_read_only": x.copy(),
    }
    ways["dense_read_only"].flags.writeable = False
    for part in (ways["csr_read_only"].data, ways["csr_read_only"].indices, ways["csr_read_only"].indptr):
        part.flags.writeable = False
    return ways


def _unsorted(x: sp.csr_matrix) -> sp.csr_matrix:
    """The entries of each row in reverse order."""
    order = np.concatenate([np.arange(x.indptr[i], x.indptr[i + 1])[::-1] for i in range(x.shape[0])])
    return sp.csr_matrix((x.data[order], x.indices[order], x.indptr.copy()), shape=x.shape)
