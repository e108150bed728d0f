"""Small fits, one for each thing that a model can be asked for, each made once in a test run.

Tests that write take a copy.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import scvi_pp as svp
from tests.contract import QUICK, small_counts, small_fragments

MODELS: dict[str, dict[str, Any]] = {
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
    "scanvi": {"labels_key": "known"},
}
PEAKVI: dict[str, dict[str, Any]] = {
    "peakvi": {},
    "peakvi simplex": {"latent_distribution": "ln"},
    "peakvi size factor": {"size_factor_key": "depth"},
    "peakvi without factors": {"cell_factors": False, "region_factors": False},
    "peakvi covariates": {
        "categorical_covariate_keys": ["sex", "site"],
        "continuous_covariate_keys": "mito",
        "encode_covariates": True,
        "deeply_inject_covariates": True,
    },
    "peakvi some regions": {"mask_var": "chosen"},
}
POISSONVI: dict[str, dict[str, Any]] = {
    "poissonvi": {},
    "poissonvi simplex": {"latent_distribution": "ln"},
    "poissonvi size factor": {"size_factor_key": "size"},
    "poissonvi latent library": {"use_observed_lib_size": False},
    "poissonvi embedding": {"batch_representation": "embedding", "n_batch_embedding": 3},
    "poissonvi covariates": {"categorical_covariate_keys": "sex", "continuous_covariate_keys": ["mito", "age"]},
    "poissonvi some regions": {"mask_var": "chosen"},
}
CHROMATIN = {**PEAKVI, **POISSONVI}
OPTIONS = {**QUICK, "max_epochs": 4, "batch_size": 10, "batch_key": "batch", "denoise": False}


def cells(n_obs: int = 60, n_vars: int = 20, seed: int = 0) -> ad.AnnData:
    """Counts with every kind of column that a model reads."""
    return _with_columns(small_counts(n_obs, n_vars, seed), seed)


def fragments(n_obs: int = 60, n_vars: int = 20, seed: int = 0) -> ad.AnnData:
    """The same of chromatin."""
    return _with_columns(small_fragments(n_obs, n_vars, seed), seed)


def _with_columns(adata: ad.AnnData, seed: int) -> ad.AnnData:
    n_obs, n_vars = adata.shape
    rng = np.random.default_rng(seed)
    adata.obs["type"] = pd.Categorical(np.where(adata.obs.pop("group"), "t1", "t0"))
    adata.obs["known"] = adata.obs["type"].where(np.arange(n_obs) % 5 > 1)
    adata.obs["sex"] = rng.permutation(np.arange(n_obs) % 2 == 0)
    adata.obs["site"] = pd.Categorical([f"s{i % 3}" for i in range(n_obs)])
    adata.obs["mito"] = rng.uniform(size=n_obs)
    adata.obs["age"] = rng.integers(20, 90, n_obs)
    adata.obs["size"] = rng.uniform(0.5, 2, n_obs)
    adata.obs["depth"] = rng.uniform(0.1, 1, n_obs)
    adata.var["chosen"] = np.arange(n_vars) % 4 > 0
    return adata


def like(name: str, n_obs: int = 60, n_vars: int = 20, seed: int = 0) -> ad.AnnData:
    """Data of the kind that a model was fitted to."""
    return (fragments if name in CHROMATIN else cells)(n_obs, n_vars, seed)


@cache
def fit(name: str) -> ad.AnnData:
    """The fit of a model in `MODELS` or `CHROMATIN`, not to be written to."""
    adata = like(name)
    options = CHROMATIN[name] if name in CHROMATIN else MODELS[name]
    with svp.settings.override(verbosity=0, seed=0):  # whichever test asks first
        getattr(svp.tl, model_of(name))(adata, **{**OPTIONS, **options})
    return adata


def model_of(name: str) -> str:
    """The verb, and the name under which the fit is stored."""
    first = name.split()[0]
    return first if first in ("peakvi", "poissonvi", "scanvi") else "scvi"


def genes_of(name: str) -> list[str]:
    """The modelled genes or regions."""
    adata = fit(name)
    return list(adata.var_names[adata.var["chosen"]] if "some " in name else adata.var_names)
