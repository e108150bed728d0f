"""Small fits of tl.scvi, one for each thing it can be asked for, each made once in a test run.

Tests that write take a copy.
"""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd

import scvi_pp as svp
from tests.contract import QUICK, small_counts

MODELS = {
    "zinb": {},
    "nb": {"gene_likelihood": "nb"},
    "poisson": {"gene_likelihood": "poisson"},
    "normal": {"gene_likelihood": "normal", "layer": "lognorm"},
    "simplex": {"latent_distribution": "ln"},
    "latent library": {"use_observed_lib_size": False},
    "size factor": {"size_factor_key": "size"},
    "embedding": {"batch_representation": "embedding", "n_batch_embedding": 3},
    "covariates": {"categorical_covariate_keys": ["sex", "site"], "continuous_covariate_keys": "mito"},
    "encoded covariates": {
        "categorical_covariate_keys": "sex",
        "continuous_covariate_keys": ["mito", "age"],
        "encode_covariates": True,
        "n_layers": 2,
    },
    "gene-batch": {"dispersion": "gene-batch"},
    "gene-label": {"dispersion": "gene-label", "labels_key": "type"},
    "gene-cell": {"dispersion": "gene-cell", "gene_likelihood": "nb"},
    "some genes": {"mask_var": "chosen"},
}
OPTIONS = {**QUICK, "max_epochs": 4, "batch_size": 10, "batch_key": "batch", "denoise": False}


def cells(n_obs: int = 60, n_vars: int = 20, seed: int = 0) -> ad.AnnData:
    """Counts with every kind of column that tl.scvi reads."""
    adata = small_counts(n_obs, n_vars, seed)
    rng = np.random.default_rng(seed)
    adata.obs["type"] = pd.Categorical(np.where(adata.obs.pop("group"), "t1", "t0"))
    adata.obs["sex"] = rng.permutation(np.arange(n_obs) % 2 == 0)
    adata.obs["site"] = pd.Categorical([f"s{i % 3}" for i in range(n_obs)])
    adata.obs["mito"] = rng.uniform(size=n_obs)
    adata.obs["age"] = rng.integers(20, 90, n_obs)
    adata.obs["size"] = rng.uniform(0.5, 2, n_obs)
    adata.var["chosen"] = np.arange(n_vars) % 4 > 0
    return adata


@cache
def fit(name: str) -> ad.AnnData:
    """The fit of a model in `MODELS`, not to be written to."""
    adata = cells()
    with svp.settings.override(verbosity=0):
        svp.tl.scvi(adata, **{**OPTIONS, **MODELS[name]})
    return adata


def genes_of(name: str) -> list[str]:
    """The modelled genes."""
    adata = fit(name)
    return list(adata.var_names[adata.var["chosen"]] if name == "some genes" else adata.var_names)
