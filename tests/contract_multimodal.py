"""What verbs of several modalities promise: the verbs, and the words in which the promises are written.

The promises are the tests of test_contract_multimodal.py. A new verb keeps them all by adding itself to `VERBS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp
from mudata import MuData

import scvi_pp as svp
from scvi_pp._data.modalities import multimodal
from scvi_pp._data.multiome import copied
from tests.contract import QUICK, assert_same


@dataclass(frozen=True)
class Verb:
    """A verb of RNA and other modalities, with the options that make its fit a matter of milliseconds."""

    call: Callable[..., MuData | None]
    modalities: tuple[str, ...]
    other: str  # a modality beside RNA
    n_without_rna: int  # of the 60 cells
    in_own_layer: str = ""  # arguments by which tl.denoise makes the layer of the other modality

    @property
    def name(self) -> str:
        return self.call.__name__

    def __str__(self) -> str:
        return self.name

    def __call__(self, mdata: Any, **options: Any) -> MuData | None:
        return self.call(mdata, **{**QUICK, **options})

    def latent(self, mdata: MuData, **options: Any) -> np.ndarray:
        """What a fit on a copy of this object writes as its latent."""
        fitted = self(mdata, denoise=False, copy=True, **options)
        return fitted.obsm[f"X_{self.name}"]

    def written(self, key_added: str | None = None, layers: tuple[str, ...] | None = None) -> set[str]:
        """The places that the docstring lists."""
        stem = key_added or self.name
        places = {f"obsm[{key_added or f'X_{stem}'}]", f"uns[{stem}]"}
        return places | {f"{name}: layers[{stem}_denoised]" for name in (self.modalities if layers is None else layers)}

    def cells(self) -> MuData:
        """Paired and unpaired cells of two batches, in an object that holds a bit of everything."""
        mdata = copied(_simulated(self.modalities))
        rng = np.random.default_rng(0)
        mdata.uns["study"] = {"year": 2023}
        mdata.obsp["distances"] = sp.eye(mdata.n_obs, format="csr")
        for held in mdata.mod.values():
            held.layers["counts"] = held.X.copy()
            held.layers["lognorm"] = held.X.log1p()
            held.uns["neighbors"] = {"params": {"n_neighbors": 15}}
            held.obsm["X_pca"] = rng.normal(size=(held.n_obs, 2))
        return mdata


VERBS = [
    Verb(svp.tl.multivi, ("rna", "atac", "protein"), "atac", 18, in_own_layer=", threshold=0.1"),
    Verb(svp.tl.totalvi, ("rna", "protein"), "protein", 12),
]


@cache
def _simulated(modalities: tuple[str, ...]) -> MuData:
    """Without chromatin some cells have proteins alone, and some RNA."""
    if "atac" in modalities:
        return svp.datasets.simulate_multiome(60, 20, n_regions=40, n_proteins=4, rna_only=0.2, atac_only=0.3)
    whole = svp.datasets.simulate_multiome(60, 40, n_regions=10, n_proteins=5)
    parts = {"rna": whole["rna"][:48].copy(), "protein": whole["protein"][12:].copy()}
    return multimodal(parts, whole.obs)


def contents(mdata: MuData) -> dict[str, Any]:
    """Everything the object and its modalities hold, copied, by the name of its place."""
    found: dict[str, Any] = {"mod": {"names": list(mdata.mod)}}
    for where, data in (("", mdata), *((f"{name}: ", held) for name, held in mdata.mod.items())):
        found |= {f"{where}obs": data.obs, f"{where}var": data.var}
        if data is not mdata:
            found[f"{where}X"] = data.X
            found |= {f"{where}layers[{key}]": value for key, value in data.layers.items() if key is not None}
        for place in ("obsm", "varm", "obsp", "varp", "uns"):
            found |= {f"{where}{place}[{key}]": value for key, value in getattr(data, place).items()}
    found |= {f"obsmap[{name}]": np.asarray(mdata.obsmap[name]) for name in mdata.obsmap}
    return {name: copy.deepcopy(value) for name, value in found.items()}


def assert_only_added(before: dict[str, Any], mdata: MuData, added: set[str]) -> None:
    after = contents(mdata)
    assert set(after) == set(before) | added
    kept = [name for name in after if name not in added]
    assert_same({name: before[name] for name in kept}, {name: after[name] for name in kept})
