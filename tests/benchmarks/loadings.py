"""`tl.linear_scvi` against scvi-tools' LinearSCVI: true loadings that are found, and held-out ELBO.

    python tests/benchmarks/loadings.py            # both, some twenty minutes on one core

Simulated: 3,000 cells x 200 genes, three programmes of forty genes each, negative binomial counts of some 3,000 a cell; the
share of the variance of each true loading (less its mean over genes) that is linear in those found, the smallest of three.
Real: 10x PBMC 4k, 2,000 genes, a tenth held out, the library observed on both sides. Needs scvi-tools and the real sets.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import scvi
import torch
from real_sets import default_data_dir, held_out, prepare

import scvi_pp as svp

SEEDS = (0, 1, 2)
OPTIONS = {"use_observed_lib_size": True}


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_data_dir(), help="folder of the .h5ad files")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    svp.settings.verbosity = 0
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|scvi")
    print("| set | seed | scvi-tools | scvi_pp |\n| --- | --- | --- | --- |")
    for seed in SEEDS:
        adata, truth = programmes(seed)
        svp.tl.linear_scvi(adata, n_latent=3, denoise=False, rng=seed)
        peer = fitted_peer(adata.copy(), seed, n_latent=3)
        theirs = np.asarray(peer.get_loadings())
        shares = (found_share(truth, theirs - theirs.mean(0)), found_share(truth, svp.get.loadings(adata).to_numpy()))
        print(f"| simulated, smallest share | {seed} | {shares[0]:.3f} | {shares[1]:.3f} |", flush=True)
    adata = prepare("pbmc4k", asked.data)
    for seed in SEEDS[:1]:
        outside = held_out(adata, seed)
        svp.tl.linear_scvi(adata, validation_indices=outside, denoise=False, rng=seed)
        peer = fitted_peer(adata.copy(), seed, outside=outside)
        theirs = float(np.mean([float(peer.get_elbo(indices=outside)) for _ in range(5)]))
        ours = float(np.mean([svp.get.elbo(adata[outside].copy(), rng=draw) for draw in range(5)]))
        print(f"| PBMC 4k, held-out ELBO per cell | {seed} | {theirs:.1f} | {ours:.1f} |", flush=True)


def programmes(seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Counts of cells whose log shares are linear in three programmes, and the loadings of these less their means."""
    random = np.random.default_rng(seed)
    loadings = np.zeros((200, 3))
    for programme in range(3):
        loadings[40 * programme : 40 * programme + 40, programme] = random.normal(0, 1, 40)
    rate = np.exp(random.normal(0, 1, 200) + random.normal(size=(3000, 3)) @ loadings.T)
    share = rate / rate.sum(1, keepdims=True) * random.gamma(5.0, 0.2, rate.shape)
    return ad.AnnData(sp.csr_matrix(random.poisson(3000 * share).astype(np.float32))), loadings - loadings.mean(0)


def found_share(truth: np.ndarray, found: np.ndarray) -> float:
    """The share of the variance of each true loading that is linear in those found; the smallest."""
    rest = truth - found @ np.linalg.lstsq(found, truth, rcond=None)[0]
    return float((1 - (rest**2).sum(0) / (truth**2).sum(0)).min())


def fitted_peer(
    adata: ad.AnnData, seed: int, *, n_latent: int = 10, outside: np.ndarray | None = None
) -> scvi.model.LinearSCVI:
    """LinearSCVI after its default training."""
    scvi.settings.seed = seed
    scvi.model.LinearSCVI.setup_anndata(adata)
    model = scvi.model.LinearSCVI(adata, n_latent=n_latent, **OPTIONS)
    split = {}
    if outside is not None:
        inside = np.setdiff1d(np.arange(adata.n_obs), outside)
        split = {"datasplitter_kwargs": {"external_indexing": [inside, outside, np.array([], dtype=int)]}}
    model.train(accelerator="cpu", enable_progress_bar=False, **split)
    return model


if __name__ == "__main__":
    main()
