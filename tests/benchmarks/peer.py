"""scvi-tools' default run, watched: `train()` as it comes, with the held-out cells evaluated every ten epochs."""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from datetime import date
from importlib.metadata import version

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import scvi
import torch
from real_sets import batch_key_of, held_out
from runs import NOISE_DRAWS, Run, Stopwatch

METHOD = "scvi-tools"
EPOCHS_BETWEEN_EVALUATIONS = 10


class BestWeights(pl.Callback):
    """Keeps the weights of the evaluation with the best held-out ELBO. scvi-tools itself would not keep them."""

    def __init__(self) -> None:
        self.negative_elbo = float("inf")
        self.epoch = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the ELBO that the training plan has just logged with the best one so far."""
        negative_elbo = float(trainer.callback_metrics["elbo_validation"])
        if negative_elbo < self.negative_elbo:
            self.negative_elbo, self.epoch = negative_elbo, trainer.current_epoch + 1
            self.weights = copy.deepcopy(pl_module.module.state_dict())


def fit_peer(
    adata: ad.AnnData, set_name: str, seed: int, *, threads: int, max_epochs: int | None = None
) -> tuple[Run, np.ndarray]:
    """Fit `scvi.model.SCVI` with default settings on all but the held-out cells; return the run and all latents."""
    torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|scvi")
    scvi.settings.seed = seed
    outside = held_out(adata, seed)
    inside = np.setdiff1d(np.arange(adata.n_obs), outside)
    best = BestWeights()
    with Stopwatch() as watch:
        scvi.model.SCVI.setup_anndata(adata, batch_key=batch_key_of(adata))
        model = scvi.model.SCVI(adata)
        model.train(
            max_epochs=max_epochs,
            accelerator="cpu",
            check_val_every_n_epoch=EPOCHS_BETWEEN_EVALUATIONS,
            datasplitter_kwargs={"external_indexing": [inside, outside, np.array([], dtype=int)]},
            enable_progress_bar=False,
            callbacks=[best],
        )
        latent = model.get_latent_representation()
    elbo = mean_elbo(model, outside)
    evaluated = model.history["elbo_validation"]["elbo_validation"].dropna()
    epochs = len(model.history["elbo_train"])
    model.module.load_state_dict(best.weights)
    run = Run(
        method=METHOD,
        set_name=set_name,
        seed=seed,
        elbo=elbo,
        elbo_best=mean_elbo(model, outside),
        best_epoch=best.epoch,
        epochs=epochs,
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        n_cells=adata.n_obs,
        n_held_out=len(outside),
        n_genes=adata.n_vars,
        genes_sha256=adata.uns["genes_sha256"],
        threads=threads,
        date=date.today().isoformat(),
        command=" ".join(["python", *sys.argv]),
        versions={name: version(name) for name in ("scvi-tools", "torch", "lightning", "scanpy", "anndata", "numpy")},
        history={
            "elbo_held_out_one_draw": [-float(value) for value in evaluated],
            "epoch": [float(epoch) for epoch in evaluated.index + 1],
        },
    )
    return run, latent


def mean_elbo(model: scvi.model.SCVI, cells: np.ndarray) -> float:
    """ELBO per cell at KL weight 1, averaged over `NOISE_DRAWS` draws of the latent. Higher is better."""
    return float(np.mean([float(model.get_elbo(indices=cells)) for _ in range(NOISE_DRAWS)]))
