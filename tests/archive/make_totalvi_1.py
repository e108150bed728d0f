"""Made totalvi_1.h5ad and totalvi_1.h5mu, with scvi_pp 0.1.0. Never to be run again: they stand for what users have.

Fits of a few cells in format scvi_pp/1: of an AnnData with proteins in obsm, of which a batch lacks one, and of a MuData with
cells that have RNA alone. Their answers lie beside the models.
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

N_CELLS = 24
QUICK = {"batch_key": "donor", "n_hidden": 4, "n_latent": 2, "max_epochs": 3, "device": "cpu", "denoise": False}
RICH = {
    "categorical_covariate_keys": "sex",
    "continuous_covariate_keys": "mito",
    "latent_distribution": "ln",
    "use_observed_lib_size": False,
    "gene_likelihood": "zinb",
    "protein_dispersion": "protein-batch",
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


def answers(data) -> None:
    """What the model says, beside it."""
    _, data.obsm["variance"] = svp.get.latent(data, kind="distribution")
    for name in ("rna", "protein"):
        data.obsm[f"{name} in 3"] = svp.get.denoised(data, mod=name, transform_batch=3).to_numpy()
    data.obsm["foreground"] = svp.get.foreground_probability(data).to_numpy()


def with_obsm() -> ad.AnnData:
    adata = modality(8, "gène", 2)
    proteins = modality(5, "protéine", 9).to_df()
    proteins.loc[(adata.obs["donor"] == 3).to_numpy(), "protéine 1"] = 0
    adata.obsm["adt"] = proteins
    svp.tl.totalvi(adata, protein_obsm="adt", **QUICK, **RICH)
    answers(adata)
    return adata


def of_modalities() -> MuData:
    mudata.set_options(pull_on_update=False)
    mdata = MuData({"rna": modality(8, "gène", 2), "protein": modality(5, "protéine", 9)[:20].copy()})
    svp.tl.totalvi(mdata, **QUICK, adversarial_mixing=True)
    answers(mdata)
    return mdata


if __name__ == "__main__":
    here = Path(__file__).parent
    with_obsm().write_h5ad(here / "totalvi_1.h5ad")
    of_modalities().write_h5mu(here / "totalvi_1.h5mu")
