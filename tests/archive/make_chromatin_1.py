"""Made peakvi_1.h5ad, poissonvi_1.h5ad and multivi_1.h5mu, with scvi_pp 0.1.0. Never to be run again: they stand for what
users have.

Fits of a few cells in format scvi_pp/1, of which MultiVI has paired and unpaired ones with proteins. Their answers lie
beside the models.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData

import scvi_pp as svp

N_CELLS = 16
QUICK = {"batch_key": "donor", "n_hidden": 4, "n_latent": 2, "max_epochs": 3, "device": "cpu", "denoise": False}
RICH = {
    "categorical_covariate_keys": "sex",
    "continuous_covariate_keys": "mito",
    "deeply_inject_covariates": True,
    "latent_distribution": "ln",
}


def modality(n_vars: int, prefix: str, mean: float) -> ad.AnnData:
    rng = np.random.default_rng(n_vars)
    n = np.arange(N_CELLS)
    counts = rng.poisson(rng.gamma(2, mean / 2, n_vars), (N_CELLS, n_vars))
    counts[n, n % n_vars] += 1
    obs = {"donor": np.where(n % 2, 3, 10), "sex": n % 4 < 2, "mito": np.linspace(0, 1, N_CELLS)}
    names = pd.DataFrame(index=[f"{prefix} {i}" for i in range(n_vars)])
    return ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)), obs=pd.DataFrame(obs, index=[f"cell{i}" for i in n]), var=names
    )


def of_chromatin(verb, **options) -> ad.AnnData:
    """A fit with what the model in it says, as the test asks for it."""
    adata = modality(10, "région", 0.5)
    verb(adata, **QUICK, **options)
    _, adata.obsm["variance"] = svp.get.latent(adata, kind="distribution")
    svp.tl.denoise(adata, transform_batch=3, normalize_cells=True, normalize_regions=True, key_added="in_3")
    return adata


def of_multiome() -> MuData:
    """Cells with RNA and proteins, cells with chromatin, and cells with all."""
    mudata.set_options(pull_on_update=False)
    parts = {
        "rna": modality(8, "gène", 2)[:11],
        "atac": modality(10, "région", 0.5)[5:],
        "adt": modality(4, "protéine", 5)[:11],
    }
    mdata = MuData({name: part.copy() for name, part in parts.items()})
    svp.tl.multivi(mdata, **QUICK, **RICH, modality_weights="cell", protein_dispersion="protein-batch")
    _, mdata.obsm["variance"] = svp.get.latent(mdata, kind="distribution")
    for name in mdata.mod:
        mdata.obsm[f"{name} in 3"] = svp.get.denoised(mdata, mod=name, transform_batch=3).to_numpy()
    return mdata


if __name__ == "__main__":
    here = Path(__file__).parent
    of_chromatin(svp.tl.peakvi).write_h5ad(here / "peakvi_1.h5ad")
    of_chromatin(svp.tl.poissonvi, **RICH).write_h5ad(here / "poissonvi_1.h5ad")
    of_multiome().write_h5mu(here / "multivi_1.h5mu")
