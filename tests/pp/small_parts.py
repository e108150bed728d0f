"""Small objects with genes, with regions and with both, which tell where each count came from."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scvi_pp._data.modalities import multimodal


def part(name: str, features: str, n_obs: int, n_vars: int = 6, *, seed: int = 0, **columns) -> AnnData:
    """Cells 'name1', ... with counts of 'features1', ..., which are different in each part."""
    counts = np.random.default_rng([seed, n_obs, n_vars]).poisson(2.0, (n_obs, n_vars)).astype(np.float32)
    return AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(columns, index=[f"{name}{i}" for i in range(n_obs)]),
        var=pd.DataFrame({"length": np.arange(n_vars)}, index=[f"{features}{i}" for i in range(n_vars)]),
    )


def both(name: str = "both", n_obs: int = 5) -> AnnData:
    """Genes and regions in one object, mixed, as nobody should count on their order."""
    adata = anndata.concat([part(name, "gene", n_obs), part(name, "peak", n_obs, 8)], axis=1)
    adata.var["feature_types"] = ["Gene Expression"] * 6 + ["Peaks"] * 8
    return adata[:, np.random.default_rng(0).permutation(14)].copy()


def values(adata: AnnData, cells, features, layer: str | None = None) -> np.ndarray:
    chosen = adata[list(cells), list(features)]
    matrix = chosen.X if layer is None else chosen.layers[layer]
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def assert_same_counts(joined: AnnData, original: AnnData, ending: str = "") -> None:
    features = [name for name in original.var_names if name in joined.var_names]
    assert features
    cells = [f"{name}{ending}" for name in original.obs_names]
    np.testing.assert_array_equal(values(joined, cells, features), values(original, original.obs_names, features))


def mudata_of(modalities: dict[str, AnnData]) -> MuData:
    names = pd.Index(dict.fromkeys(name for adata in modalities.values() for name in adata.obs_names))
    return multimodal(modalities, pd.DataFrame(index=names))
