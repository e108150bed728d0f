"""`scvi_pp.tl.scvi` with default settings, on the cells and genes of the peer's run."""

from __future__ import annotations

import sys
from datetime import date
from importlib.metadata import version

import anndata as ad
import numpy as np
import torch
from real_sets import batch_key_of, held_out
from runs import NOISE_DRAWS, Run, Stopwatch

import scvi_pp as svp

METHOD = "scvi_pp"


def fit_ours(
    adata: ad.AnnData, set_name: str, seed: int, *, threads: int, max_epochs: int | None = None
) -> tuple[Run, np.ndarray]:
    """Fit `tl.scvi` with default settings on all but the held-out cells; return the run and all latents.

    The denoised layer is not written: the peer's run does not compute it either. We keep the best weights of the run,
    so `elbo` and `elbo_best` are the same.
    """
    torch.set_num_threads(threads)
    outside = held_out(adata, seed)
    budget = {} if max_epochs is None else {"max_epochs": max_epochs}
    with svp.settings.override(verbosity=0), Stopwatch() as watch:
        svp.tl.scvi(
            adata,
            batch_key=batch_key_of(adata),
            validation_indices=outside,
            denoise=False,
            random_state=seed,
            device="cpu",
            **budget,
        )
    elbo = mean_elbo(adata, outside)
    history = {name: [float(value) for value in values] for name, values in adata.uns["scvi"]["history"].items()}
    held_out_curve = np.abs(history["elbo_validation"])  # smaller is better, with or without the minus sign
    run = Run(
        method=METHOD,
        set_name=set_name,
        seed=seed,
        elbo=elbo,
        elbo_best=elbo,
        best_epoch=int(np.nanargmin(held_out_curve)) + 1,
        epochs=len(held_out_curve),
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        n_cells=adata.n_obs,
        n_held_out=len(outside),
        n_genes=adata.n_vars,
        genes_sha256=adata.uns["genes_sha256"],
        threads=threads,
        date=date.today().isoformat(),
        command=" ".join(["python", *sys.argv]),
        versions={name: version(name) for name in ("torch", "scanpy", "anndata", "numpy")} | {METHOD: svp.__version__},
        history=history,
    )
    return run, np.asarray(adata.obsm["X_scvi"])


def mean_elbo(adata: ad.AnnData, cells: np.ndarray) -> float:
    """ELBO per cell at KL weight 1, averaged over `NOISE_DRAWS` draws of the latent. Higher is better."""
    unseen = adata[cells].copy()
    return float(np.mean([float(svp.get.elbo(unseen, random_state=draw)) for draw in range(NOISE_DRAWS)]))
