"""Made linear_scvi_1.h5ad and query_1.h5ad, with scvi_pp 0.1.0. Never to be run again: they stand for what users have.

A fit of a few cells with a linear decoder, and cells that were mapped onto a fit of scVI: with a batch that it had not seen,
without labels, and without some of its genes.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scvi_pp as svp

N_CELLS, N_GENES = 20, 10
QUICK = {"batch_key": "donor", "n_hidden": 4, "n_latent": 2, "max_epochs": 3, "device": "cpu", "denoise": False}


def cells(seed: int, donors: tuple[str, str]) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    n = np.arange(N_CELLS)
    counts = rng.poisson(np.random.default_rng(0).gamma(2, 1, N_GENES), (N_CELLS, N_GENES))
    counts[n, n % N_GENES] += 1
    obs = pd.DataFrame(
        {"donor": np.array(donors)[n % 2], "type": np.array(["α", "β"])[n % 4 // 2]},
        index=[f"cell{seed}-{i}" for i in n],
    )
    names = pd.DataFrame(index=[f"gène {i}" for i in range(N_GENES)])
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=names)


def answered(adata: ad.AnnData) -> ad.AnnData:
    """With what the model in it says, as the test asks for it."""
    _, adata.obsm["variance"] = svp.get.latent(adata, kind="distribution")
    svp.tl.denoise(adata, transform_batch="b", library_size="latent", key_added="in_b")
    return adata


if __name__ == "__main__":
    here = Path(__file__).parent
    linear = cells(0, ("a", "b"))
    svp.tl.linear_scvi(linear, gene_likelihood="zinb", **QUICK)
    answered(linear).write_h5ad(here / "linear_scvi_1.h5ad")
    reference, query = cells(0, ("a", "b")), cells(1, ("b", "c"))[:, 2:].copy()
    svp.tl.scvi(reference, labels_key="type", dispersion="gene-label", encode_covariates=True, **QUICK)
    del query.obs["type"]
    svp.tl.map_query(query, reference, max_epochs=2, device="cpu")
    answered(query).write_h5ad(here / "query_1.h5ad")
