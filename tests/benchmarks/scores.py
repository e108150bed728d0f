"""How well a latent keeps cell types and mixes batches: the scIB metrics (Luecken et al., Nature Methods 2022)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
import scib_metrics
from runs import Run, json_path, latent_of
from scib_metrics.nearest_neighbors import NeighborsResults
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

N_NEIGHBORS = 90
LEIDEN_RESOLUTIONS = tuple(round(0.1 * step, 1) for step in range(1, 21))
BIO = ("ARI Leiden", "NMI Leiden", "ARI k-means", "NMI k-means", "label silhouette", "cLISI", "isolated labels")
BATCH = ("BRAS", "iLISI", "kBET", "graph connectivity", "PCR")


def scores_of(cache: Path, run: Run, adata: ad.AnnData) -> dict[str, float]:
    """Scores of a kept run, computed once and kept beside it as `scores-<set>-seed<seed>.json`."""
    kept = json_path(cache, run.method, run.set_name, run.seed)
    path = kept.with_name(f"scores-{kept.name}")
    if path.exists() and path.stat().st_mtime >= kept.stat().st_mtime:
        return json.loads(path.read_text())
    scores = score(latent_of(cache, run), adata)
    path.write_text(json.dumps(scores, indent=1))
    return scores


def score(latent: np.ndarray, adata: ad.AnnData) -> dict[str, float]:
    """All scores that the set allows; 1 is best, but for "15-NN batch", the accuracy with which batch is told."""
    labels, batches = adata.obs["label"].to_numpy(), adata.obs["batch"].to_numpy()
    neighbors = exact_neighbors(latent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = {"15-NN label": knn_accuracy(latent, labels)} | bio_scores(latent, neighbors, labels)
        if adata.obs["batch"].nunique() > 1:
            scores["isolated labels"] = float(scib_metrics.isolated_labels(latent, labels, batches))
            scores["15-NN batch"] = knn_accuracy(latent, batches)
            scores |= batch_scores(latent, neighbors, adata)
    scores["bio conservation"] = float(np.mean([scores[name] for name in BIO if name in scores]))
    if "iLISI" in scores:
        scores["batch correction"] = float(np.mean([scores[name] for name in BATCH]))
        scores["scIB total"] = 0.6 * scores["bio conservation"] + 0.4 * scores["batch correction"]
    return scores


def bio_scores(latent: np.ndarray, neighbors: NeighborsResults, labels: np.ndarray) -> dict[str, float]:
    """Do cells of a type lie together? Leiden is scored at its best of 20 resolutions, as scIB does."""
    clustered = scib_metrics.nmi_ari_cluster_labels_kmeans(latent, labels)
    return {
        **best_leiden(latent, labels),
        "ARI k-means": float(clustered["ari"]),
        "NMI k-means": float(clustered["nmi"]),
        "label silhouette": float(scib_metrics.silhouette_label(latent, labels)),
        "cLISI": float(scib_metrics.clisi_knn(neighbors, labels)),
    }


def batch_scores(latent: np.ndarray, neighbors: NeighborsResults, adata: ad.AnnData) -> dict[str, float]:
    """Do the batches mix? PCR compares with 50 principal components of the log-normalised counts."""
    labels, batches = adata.obs["label"].to_numpy(), adata.obs["batch"].to_numpy()
    unintegrated = adata.copy()
    sc.pp.normalize_total(unintegrated, target_sum=1e4)
    sc.pp.log1p(unintegrated)
    sc.pp.pca(unintegrated, n_comps=50)
    fewer = neighbors.subset_neighbors(50)
    return {
        "BRAS": float(scib_metrics.bras(latent, labels, batches)),
        "iLISI": float(scib_metrics.ilisi_knn(neighbors, batches)),
        "kBET": float(scib_metrics.kbet_per_label(fewer, batches, labels)),
        "graph connectivity": float(scib_metrics.graph_connectivity(neighbors.subset_neighbors(15), labels)),
        "PCR": float(scib_metrics.pcr_comparison(unintegrated.obsm["X_pca"], latent, batches, categorical=True)),
    }


def exact_neighbors(latent: np.ndarray) -> NeighborsResults:
    """The 90 nearest cells of each cell, itself first; exact, so that scores do not depend on a search's luck."""
    distances, indices = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(latent).kneighbors(latent)
    return NeighborsResults(indices=indices, distances=distances)


def best_leiden(latent: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ARI and NMI of the Leiden clustering, of 20 resolutions, whose NMI is highest."""
    cells = ad.AnnData(obsm={"latent": latent}, shape=(len(latent), 0))
    sc.pp.neighbors(cells, use_rep="latent", n_neighbors=15, random_state=0)
    best = {"ARI Leiden": 0.0, "NMI Leiden": -1.0}
    for resolution in LEIDEN_RESOLUTIONS:
        sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        nmi = float(normalized_mutual_info_score(labels, cells.obs["leiden"]))
        if nmi > best["NMI Leiden"]:
            best = {"ARI Leiden": float(adjusted_rand_score(labels, cells.obs["leiden"])), "NMI Leiden": nmi}
    return best


def knn_accuracy(latent: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy with which the 15 nearest neighbours tell a cell's label, over five folds."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(np.mean(cross_val_score(KNeighborsClassifier(15), latent, labels, cv=folds)))
