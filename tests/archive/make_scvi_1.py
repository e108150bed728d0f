"""Made scvi_1.h5ad, with scvi_pp 0.1.0. Never to be run again: the file stands for those that users have.

Two fits of the same few cells in format scvi_pp/1: one by default, one with as much as possible in it. Beside them lie
their answers.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scvi_pp as svp

N_CELLS, N_GENES = 16, 8
QUICK = {"layer": "counts", "batch_key": "donor", "n_hidden": 4, "n_latent": 2, "max_epochs": 3, "device": "cpu"}
RICH = {
    "mask_var": "chosen",
    "labels_key": "type",
    "categorical_covariate_keys": ["sex", "site"],
    "continuous_covariate_keys": "mito",
    "dispersion": "gene-label",
    "gene_likelihood": "nb",
    "latent_distribution": "ln",
    "use_observed_lib_size": False,
    "encode_covariates": True,
    "batch_representation": "embedding",
    "n_batch_embedding": 2,
    "use_layer_norm": "both",
}


def cells() -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(rng.gamma(2, 1, N_GENES), (N_CELLS, N_GENES)).astype(np.float32))
    n = np.arange(N_CELLS)
    obs = {
        "donor": pd.Categorical(np.where(n % 2, "d1", "d2")),
        "type": pd.Categorical(np.where(n % 3, "A", "B")),
        "sex": n % 4 < 2,
        "site": 10 * (n // 6),
        "mito": rng.uniform(size=N_CELLS),
    }
    obs = pd.DataFrame(obs, index=[f"cell{i}" for i in n])
    var = pd.DataFrame({"chosen": np.arange(N_GENES) != 2}, index=[f"gène {i}" for i in range(N_GENES)])
    return ad.AnnData(None, obs=obs, var=var, layers={"counts": counts})


def answered(adata: ad.AnnData) -> ad.AnnData:
    """The object with what the models in it say, as the test asks for it."""
    for key in ("scvi", "rich"):
        adata.layers[f"{key}_in_d1"] = svp.tl.denoise(
            adata, key=key, transform_batch="d1", library_size="latent", key_added="x", copy=True
        ).layers["x"]
        adata.obs[f"{key}_library"] = svp.get.library_size(adata, key=key)
        adata.obsm[f"{key}_mean"], adata.obsm[f"{key}_variance"] = svp.get.latent(adata, key=key, kind="distribution")
    return adata


if __name__ == "__main__":
    adata = cells()
    svp.tl.scvi(adata, **QUICK)
    svp.tl.scvi(adata, **QUICK, **RICH, key_added="rich")
    answered(adata).write_h5ad(Path(__file__).with_name("scvi_1.h5ad"))
