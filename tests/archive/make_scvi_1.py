"""Made scvi_1_default.h5ad and scvi_1_rich.h5ad, with scvi_pp 0.1.0. Never to be run again: they stand for what users have.

Two fits of the same few cells in format scvi_pp/1: one by default, one with as much as possible in it. Beside each lie
its answers. A new format gets files of its own and leaves these alone.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

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
    counts = rng.poisson(rng.gamma(2, 1, N_GENES), (N_CELLS, N_GENES)).astype(np.uint16)
    n = np.arange(N_CELLS)
    obs = {
        "donor": np.where(n % 2, 3, 10),
        "type": n % 3 > 0,
        "sex": n % 4 < 2,
        "site": 10 * (n // 6),
        "mito": rng.uniform(size=N_CELLS),
    }
    obs = pd.DataFrame(obs, index=[f"cell{i}" for i in n])
    var = pd.DataFrame({"chosen": np.arange(N_GENES) != 2}, index=[f"gène {i}" for i in range(N_GENES)])
    return ad.AnnData(None, obs=obs, var=var, layers={"counts": counts})


def archived(columns: list[str], **options) -> ad.AnnData:
    """A fit with what the model in it says, as the test asks for it."""
    adata = cells()
    adata.obs = adata.obs[columns]
    svp.tl.scvi(adata, **QUICK, **options, denoise=False)
    _, adata.obsm["variance"] = svp.get.latent(adata, kind="distribution")
    svp.tl.denoise(adata, transform_batch=3, library_size="latent", key_added="in_3")
    return adata


if __name__ == "__main__":
    here = Path(__file__).parent
    archived(["donor"]).write_h5ad(here / "scvi_1_default.h5ad")
    archived(["donor", "type", "sex", "site", "mito"], **RICH).write_h5ad(here / "scvi_1_rich.h5ad")
