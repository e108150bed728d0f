"""PeakVI and MultiVI: cells per second of training, and how good a default run is."""

from __future__ import annotations

import argparse
import time

import anndata as ad
import numpy as np
import peer_models
import scvi
from machine import limit_threads, seconds_of
from mudata import MuData
from paired import Row, Target, compared, in_turn
from real_sets import default_data_dir
from scipy.sparse import csr_matrix
from simulated import simulated
from sklearn.metrics import silhouette_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from speed_records import Section, section_of

import scvi_pp as svp

N_REGIONS, OPEN_SHARE, N_CELLS = 100_000, 0.03, 768
N_EPOCHS = 3  # so that what is done once weighs little, and our code is compiled
N_GENES, FEW_REGIONS = 2_000, 20_000
REAL_SET, LABEL = "hemato_atac_granja2019_5k.h5ad", "BioClassification"
FIXED = {"validation_size": 0, "early_stopping": False, "denoise": False, "save_model": False}


def measure(asked: argparse.Namespace) -> Section:
    """Speed of both models, then default runs on a real set."""
    limit_threads(asked.threads)
    rows = [*peakvi_rows(asked), *multivi_rows(asked), *quality_rows(asked)]
    how = (
        f"PeakVI: training on {N_CELLS:,} simulated cells x {N_REGIONS:,} regions, {OPEN_SHARE:.0%} open, default "
        "networks of both sides, which are the same, no held-out cells; scvi-tools the whole of `train(3)`, ours the fit "
        f"as it records it. MultiVI likewise, paired cells x {N_GENES:,} genes and {FEW_REGIONS:,} regions. Default "
        f"runs: {REAL_SET} (600 cells x 5,000 regions, real fragments), a tenth held out, seeds 0, 1, ...; scvi-tools' "
        "whole `train()`, ours the whole call. *Passes*: the seconds to the end of the first epoch whose held-out ELBO "
        "is at least scvi-tools' best. Neighbours: accuracy of 15 neighbours in the latent space for the six types, and their silhouette there."
    )
    return section_of("chromatin", how, rows, threads=asked.threads, device=asked.device)


def peakvi_rows(asked: argparse.Namespace) -> list[Row]:
    """Equal minibatches, and larger ones of ours."""
    n_cells = max(256, int(N_CELLS * asked.scale) // 128 * 128)
    counts = open_regions(n_cells, N_REGIONS)
    contestants = {
        "peer": lambda: N_EPOCHS * n_cells / seconds_of(peers_peakvi(counts, asked.device), asked.device),
        "equal": lambda: N_EPOCHS * n_cells / our_peakvi(counts, batch_size=128),
        "in batches of 384": lambda: N_EPOCHS * n_cells / our_peakvi(counts, batch_size=384),
    }
    figures = in_turn("PeakVI", contestants, repeats=min(3, asked.repeats), unit="cells/s")
    what = f"PeakVI, training, {N_REGIONS:,} regions"
    return [
        compared(f"{what}, equal", "cells/s", "higher", figures["peer"], figures["equal"], Target("ratio", 6.0)),
        compared(f"{what}, ours in batches of 384", "cells/s", "higher", figures["peer"], figures["in batches of 384"]),
    ]


def open_regions(n_cells: int, n_regions: int) -> csr_matrix:
    """Zeros and ones."""
    counts = simulated(n_cells, n_regions, OPEN_SHARE)
    counts.data[:] = 1
    return counts


def peers_peakvi(counts: csr_matrix, device: str) -> object:
    """A call that trains a new model for as many epochs."""
    peer_models.be_silent()
    adata = ad.AnnData(counts)
    scvi.model.PEAKVI.setup_anndata(adata)
    model = scvi.model.PEAKVI(adata)
    return lambda: peer_models.train(model, N_EPOCHS, device, early_stopping=False)


def our_peakvi(counts: csr_matrix, **options: int) -> float:
    """Seconds of the epochs, by the fit's own clock."""
    adata = ad.AnnData(counts)
    with svp.settings.override(verbosity=0):
        svp.tl.peakvi(adata, max_epochs=N_EPOCHS, **FIXED, **options)
    return float(adata.uns["peakvi"]["params"]["seconds"])


def multivi_rows(asked: argparse.Namespace) -> list[Row]:
    """Equal minibatches, paired cells."""
    n_cells = max(256, int(2 * N_CELLS * asked.scale) // 128 * 128)
    rna, atac = simulated(n_cells, N_GENES, 0.1), open_regions(n_cells, FEW_REGIONS)
    contestants = {
        "peer": lambda: N_EPOCHS * n_cells / seconds_of(peers_multivi(rna, atac, asked.device), asked.device),
        "ours": lambda: N_EPOCHS * n_cells / our_multivi(rna, atac),
    }
    figures = in_turn("MultiVI", contestants, repeats=min(3, asked.repeats), unit="cells/s")
    what = f"MultiVI, training, {N_GENES:,} genes and {FEW_REGIONS:,} regions, equal"
    return [compared(what, "cells/s", "higher", figures["peer"], figures["ours"], Target("ratio", 5.0))]


def paired_cells(rna: csr_matrix, atac: csr_matrix) -> MuData:
    """Both modalities of the same cells."""
    modalities = {"rna": ad.AnnData(rna), "atac": ad.AnnData(atac)}
    modalities["rna"].var_names = [f"gene{i}" for i in range(rna.shape[1])]
    modalities["atac"].var_names = [f"region{i}" for i in range(atac.shape[1])]
    return MuData(modalities)


def peers_multivi(rna: csr_matrix, atac: csr_matrix, device: str) -> object:
    """A call that trains a new model for as many epochs."""
    peer_models.be_silent()
    mdata = paired_cells(rna, atac)
    scvi.model.MULTIVI.setup_mudata(mdata, modalities={"rna_layer": "rna", "atac_layer": "atac"})
    model = scvi.model.MULTIVI(mdata)
    return lambda: peer_models.train(model, N_EPOCHS, device, early_stopping=False)


def our_multivi(rna: csr_matrix, atac: csr_matrix) -> float:
    """Seconds of the epochs, by the fit's own clock."""
    mdata = paired_cells(rna, atac)
    with svp.settings.override(verbosity=0):
        svp.tl.multivi(mdata, max_epochs=N_EPOCHS, batch_size=128, **FIXED)
    return float(mdata.uns["multivi"]["params"]["seconds"])


def quality_rows(asked: argparse.Namespace) -> list[Row]:
    """Whole default runs on a real set, split by split."""
    path = (asked.data or default_data_dir()) / REAL_SET
    if not path.exists():
        raise SystemExit(f"{path} is not there: the default runs need it")
    source = ad.read_h5ad(path)
    peer, ours = [], []
    for seed in range(min(3, asked.repeats)):
        outside = np.sort(np.random.default_rng(seed).permutation(source.n_obs)[: source.n_obs // 10])
        peer.append(peers_run(source, outside, seed, asked.device))
        ours.append(our_run(source, outside, seed, peer[-1]["elbo"]))
    named = {name: ([run[name] for run in peer], [run[name] for run in ours]) for name in peer[0]}
    return [
        compared("PeakVI, real set: passes its best ELBO, against its whole run", "s", "lower", named["seconds"][0],
                 [run["passes"] for run in ours], Target("ratio", 30.0)),
        compared("PeakVI, real set: whole call", "s", "lower", *named["seconds"]),
        compared("PeakVI, real set: held-out ELBO, its best against our end", "nats", "gain", *named["elbo"],
                 Target("ratio", 0.0)),
        compared("PeakVI, real set: held-out log-likelihood given the latent", "nats", "gain", *named["reconstruction"],
                 Target("ratio", 0.0)),
        compared("PeakVI, real set: accuracy of neighbours", "", "higher", *named["neighbours"], Target("ratio", 1.0)),
        compared("PeakVI, real set: silhouette of types", "", "gain", *named["silhouette"], Target("ratio", 0.0)),
    ]  # fmt: skip


def peers_run(source: ad.AnnData, outside: np.ndarray, seed: int, device: str) -> dict[str, float]:
    """A default run of scvi-tools; its best held-out figures."""
    peer_models.be_silent()
    adata = ad.AnnData(source.X.tocsr().astype(np.float32))
    scvi.settings.seed = seed
    scvi.model.PEAKVI.setup_anndata(adata)
    model = scvi.model.PEAKVI(adata)
    inside = np.setdiff1d(np.arange(adata.n_obs), outside)
    started = time.perf_counter()
    accelerator = "gpu" if device.startswith("cuda") else "cpu"
    split = peer_models.training_on(inside, outside)
    model.train(accelerator=accelerator, enable_progress_bar=False, **split)
    seconds = time.perf_counter() - started
    curves = {name: np.asarray(values, dtype=float).ravel() for name, values in model.history.items()}
    return {
        "seconds": seconds,
        "elbo": float(-curves["elbo_validation"].min()),
        "reconstruction": float(-curves["reconstruction_loss_validation"].min()),
        **types_in(model.get_latent_representation(), source),
    }


def our_run(source: ad.AnnData, outside: np.ndarray, seed: int, its_best: float) -> dict[str, float]:
    """A default call of ours; held-out figures of the weights that it keeps."""
    adata = ad.AnnData(source.X.tocsr().astype(np.float32))
    started = time.perf_counter()
    with svp.settings.override(verbosity=0):
        svp.tl.peakvi(adata, denoise=False, rng=seed, validation_indices=outside)
    seconds = time.perf_counter() - started
    curves, params = svp.get.history(adata), adata.uns["peakvi"]["params"]
    best = int(params["best_epoch"]) - 1
    passed = np.flatnonzero(curves["elbo_validation"].to_numpy() >= its_best)
    left_out = (len(curves) - 1 - passed[0]) / len(curves) * float(params["seconds"]) if len(passed) else 0.0
    return {
        "seconds": seconds,
        "passes": seconds - left_out if len(passed) else np.inf,
        "elbo": float(curves["elbo_validation"].iloc[best]),
        "reconstruction": float(curves["reconstruction_validation"].iloc[best]),
        **types_in(adata.obsm["X_peakvi"], source),
    }


def types_in(latent: np.ndarray, source: ad.AnnData) -> dict[str, float]:
    """How well the types lie apart: accuracy of fifteen neighbours in three folds, and silhouette."""
    labels = source.obs[LABEL].astype(str).to_numpy()
    accuracy = cross_val_score(KNeighborsClassifier(15), latent, labels, cv=3).mean()
    return {"neighbours": float(accuracy), "silhouette": float(silhouette_score(latent, labels))}
