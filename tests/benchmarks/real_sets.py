"""The real sets of the fidelity benchmark: which cells, which genes, which cells are held out. All deterministic."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc

N_TOP_GENES = 2000
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class RealSet:
    """A file of counts and the columns that hold its labels and batches."""

    file: str
    title: str
    label_key: str
    label_origin: str
    batch_key: str | None
    seeds: tuple[int, ...]
    """Seeds of the peer: three, but one where a run of the peer takes more than ten minutes."""


REAL_SETS: dict[str, RealSet] = {
    "kang": RealSet(
        "pbmc_kang2018_ifnb.h5ad", "Kang 2018 PBMC, IFN-beta", "cell_type_derived", "derived", "condition", (0, 1, 2)
    ),
    "pbmc4k": RealSet("pbmc4k_top2000.h5ad", "10x PBMC 4k", "label", "published", None, (0, 1, 2)),
    "pbmc3k": RealSet("pbmc3k_raw.h5ad", "10x PBMC 3k", "cell_type_derived", "derived", None, (0, 1, 2)),
    "bladder": RealSet("mouse_bladder_mca.h5ad", "Mouse bladder, MCA", "label", "published", None, (0, 1, 2)),
    "pbmc5": RealSet("pbmc_5batches_merged.h5ad", "PBMC, 5 batches", "label_coarse", "FACS + derived", "batch", (0,)),
}


def default_data_dir() -> Path:
    """The folder of the real sets, named by `SCVI_PP_REAL_DATA` as for the tests."""
    named = os.environ.get("SCVI_PP_REAL_DATA")
    if not named:
        raise SystemExit("No real data: name their folder by --data, or by the variable SCVI_PP_REAL_DATA.")
    return Path(named)


def prepare(name: str, data_dir: str | Path | None = None) -> ad.AnnData:
    """Raw counts in `X` (CSR, float32) of the 2,000 most variable genes, with `obs['label']` and `obs['batch']`.

    Genes are chosen by scanpy's `seurat_v3` rule, within batches where there are several, and kept in file order;
    cells left without a count are dropped. `uns['genes_sha256']` names the choice, so that two runs can be compared.
    `obs['batch']` is "all" for every cell of a set with one batch.
    """
    real_set = REAL_SETS[name]
    source = ad.read_h5ad(Path(data_dir or default_data_dir()) / real_set.file)
    adata = ad.AnnData(source.X.tocsr().astype(np.float32), obs=source.obs[[]].copy(), var=source.var[[]].copy())
    adata.obs["label"] = source.obs[real_set.label_key].astype(str).astype("category").to_numpy()
    batch = source.obs[real_set.batch_key].astype(str) if real_set.batch_key else np.full(source.n_obs, "all")
    adata.obs["batch"] = np.asarray(batch)
    adata.obs["label"] = adata.obs["label"].astype("category")
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    if adata.n_vars > N_TOP_GENES:
        adata = adata[:, most_variable_genes(adata)].copy()
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    adata.uns["genes_sha256"] = hashlib.sha256("\n".join(adata.var_names).encode()).hexdigest()
    return adata


def most_variable_genes(adata: ad.AnnData) -> np.ndarray:
    """Mask of the `N_TOP_GENES` most variable genes. Genes seen in fewer than 3 cells are not candidates."""
    candidates = np.asarray((adata.X > 0).sum(axis=0)).ravel() >= 3
    batch_key = "batch" if adata.obs["batch"].nunique() > 1 else None
    chosen = sc.pp.highly_variable_genes(
        adata[:, candidates].copy(), n_top_genes=N_TOP_GENES, flavor="seurat_v3", batch_key=batch_key, inplace=False
    )
    mask = np.zeros(adata.n_vars, dtype=bool)
    mask[np.flatnonzero(candidates)[chosen["highly_variable"].to_numpy()]] = True
    return mask


def held_out(adata: ad.AnnData, seed: int) -> np.ndarray:
    """Sorted positions of the 10 % of cells that no run with this seed may train on."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    return np.sort(order[: int(HELD_OUT_SHARE * adata.n_obs)])


def batch_key_of(adata: ad.AnnData) -> str | None:
    """`"batch"` where there is more than one."""
    return "batch" if adata.obs["batch"].nunique() > 1 else None
