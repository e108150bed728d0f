"""MultiVI: how well it imputes a modality that was hidden, on simulated and real multiome."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import peer_models
import scvi
from machine import limit_threads
from mudata import MuData
from paired import Row, Target, compared
from real_sets import default_data_dir
from scipy.sparse import csr_matrix, diags
from scipy.stats import rankdata
from speed_records import Section, section_of

import scvi_pp as svp

REAL_SET, SIMULATED = "mouse_cortex_snareseq.h5mu", "simulated"
N_CELLS, FEWEST = 2_000, 20  # of the real set: cells, and cells that a gene or region has to be seen in
SHARE_HIDDEN = 0.25  # of the cells, once for RNA and once for chromatin, so that half of all lack one
PER_CELL = 1e4
Hidden = dict[str, np.ndarray]  # by modality: rows of the cells in which it was hidden
Measured = dict[str, csr_matrix]


def measure(asked: argparse.Namespace) -> Section:
    """Default runs of both on the same cells with the same ones hidden, seed by seed."""
    limit_threads(asked.threads)
    mudata.set_options(pull_on_update=False)
    seeds = range(min(3, asked.repeats))
    rows = [row for title, cells_of in sets(asked).items() for row in rows_of(title, cells_of, seeds, asked)]
    how = (
        f"MultiVI: of {1 - 2 * SHARE_HIDDEN:.0%} of the cells both modalities are shown, of {SHARE_HIDDEN:.0%} each RNA or "
        "chromatin alone; what was hidden is compared with what the model imputes. RNA: correlation over these cells of "
        f"log(1 + counts per {PER_CELL:,.0f}) with the imputed share on the same scale, median over genes. Chromatin: area "
        "under the ROC curve of imputed accessibility for what was open, median over regions (in a simulation, of those "
        "genes and regions that differ between types). Default calls of both, "
        f"seeds 0, 1, ... Real set: {N_CELLS:,} cells of {REAL_SET}, all its genes and regions that are seen in "
        f"{FEWEST} of them. `datasets.simulate_multiome(1500, 500, n_regions=2000, n_types=6)`. Seconds are no part of it, and scvi-tools' runs (a "
        "quarter of an hour each on one core) are kept."
    )
    return section_of("imputation", how, rows, threads=asked.threads, device=asked.device)


def sets(asked: argparse.Namespace) -> dict[str, Callable[[int], Measured]]:
    """Counts of paired cells by modality, for a seed."""
    path = (asked.data or default_data_dir()) / REAL_SET
    if not path.exists():
        raise SystemExit(f"{path} is not there: imputation needs it")
    n_cells = max(200, int(N_CELLS * asked.scale))
    return {
        SIMULATED: lambda seed: simulated_cells(seed, asked.scale),
        "SNARE-seq": lambda seed: real_cells(path, seed, n_cells),
    }


def simulated_cells(seed: int, scale: float) -> Measured:
    """Features that differ between types: of others there is nothing to impute."""
    n_cells = max(200, int(1_500 * scale))
    mdata = svp.datasets.simulate_multiome(n_cells, 500, n_regions=2_000, n_types=6, rng=seed)
    return {name: csr_matrix(mdata[name].X, dtype=np.float32) for name in ("rna", "atac")} | {
        f"{name} differs": mdata[name].var["differential"].to_numpy() for name in ("rna", "atac")
    }


def real_cells(path: Path, seed: int, n_cells: int) -> Measured:
    """Some of the cells, without those that the authors could not place."""
    mdata = mudata.read_h5mu(path)
    labels = (mdata.obs if "cell_type" in mdata.obs else mdata["rna"].obs)["cell_type"].reindex(mdata.obs_names)
    placed = np.flatnonzero(labels.astype(str).to_numpy() != "Mis")
    names = mdata.obs_names[np.sort(np.random.default_rng(seed).permutation(placed)[:n_cells])]
    counts = {name: csr_matrix(mdata[name][names].X, dtype=np.float32) for name in ("rna", "atac")}
    return {name: matrix[:, np.asarray((matrix > 0).sum(0)).ravel() >= FEWEST] for name, matrix in counts.items()}


def rows_of(title: str, cells_of: Callable[[int], Measured], seeds: range, asked: argparse.Namespace) -> list[Row]:
    """Both sides on each seed; what the peer did on it before is not done again."""
    kept = asked.cache / f"imputation-{asked.scale:g}-peer.json"
    known: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    scores: dict[str, list[dict[str, float]]] = {"peer": [], "ours": []}
    for seed in seeds:
        counts = cells_of(seed)
        n_cells = counts["rna"].shape[0]
        order = np.random.default_rng(seed).permutation(n_cells)
        n_hidden = int(SHARE_HIDDEN * n_cells)
        hidden = {"rna": np.sort(order[:n_hidden]), "atac": np.sort(order[n_hidden : 2 * n_hidden])}
        run = f"{title}, seed {seed}, scvi-tools {scvi.__version__}"
        if run not in known:
            known[run] = scored(counts, hidden, peers_imputed(counts, hidden, seed, asked.device))
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(known, indent=1))
        scores["peer"].append(known[run])
        scores["ours"].append(scored(counts, hidden, our_imputed(counts, hidden, seed, asked.device)))
        print(f"{run}: {scores['peer'][-1]}, ours: {scores['ours'][-1]}", flush=True)
    what = {"rna": "expression, correlation", "atac": "accessibility, AUROC"}
    return [
        compared(f"MultiVI, {title}: imputed {words}", "", "gain", *([of[name] for of in scores[side]] for side in scores),
                 Target("ratio", 0.0))
        for name, words in what.items()
    ]  # fmt: skip


def our_imputed(counts: Measured, hidden: Hidden, seed: int, device: str) -> Measured:
    """A default call; cells that lack a modality are not in it."""
    n_cells = counts["rna"].shape[0]
    names = np.array([f"cell{i}" for i in range(n_cells)])
    modalities = {}
    for name in hidden:
        shown = np.setdiff1d(np.arange(n_cells), hidden[name])
        modalities[name] = named(counts[name][shown], names[shown], name)
    mdata = MuData(modalities)
    with svp.settings.override(verbosity=0, device=device):
        svp.tl.multivi(mdata, denoise=False, rng=seed)
        return {name: svp.get.denoised(mdata, mod=name).loc[names[hidden[name]]].to_numpy() for name in hidden}


def peers_imputed(counts: Measured, hidden: Hidden, seed: int, device: str) -> Measured:
    """A default run of scvi-tools; cells that lack a modality have zeros in it."""
    peer_models.be_silent()
    names = np.array([f"cell{i}" for i in range(counts["rna"].shape[0])])
    shown = {}
    for name in hidden:
        kept = np.ones(len(names), dtype=np.float32)
        kept[hidden[name]] = 0
        shown[name] = named(csr_matrix(diags(kept) @ counts[name], dtype=np.float32), names, name)
    mdata = MuData(shown)
    scvi.settings.seed = seed
    scvi.model.MULTIVI.setup_mudata(mdata, modalities={"rna_layer": "rna", "atac_layer": "atac"})
    model = scvi.model.MULTIVI(mdata)
    accelerator = "gpu" if device.startswith("cuda") else "cpu"
    model.train(accelerator=accelerator, enable_progress_bar=False)
    expression = np.asarray(model.get_normalized_expression(return_numpy=True))
    accessibility = model.get_normalized_accessibility(normalize_cells=False, normalize_regions=False)
    return {"rna": expression[hidden["rna"]], "atac": np.asarray(accessibility)[hidden["atac"]]}


def named(matrix: csr_matrix, cells: np.ndarray, prefix: str) -> ad.AnnData:
    """Counts with names of cells and features."""
    adata = ad.AnnData(matrix)
    adata.obs_names, adata.var_names = cells, [f"{prefix}{i}" for i in range(matrix.shape[1])]
    return adata


def scored(counts: Measured, hidden: Hidden, imputed: Measured) -> dict[str, float]:
    """The median over features, by modality."""
    observed = {name: counts[name][rows].toarray() for name, rows in hidden.items()}
    totals = observed["rna"].sum(1, keepdims=True)
    shares = np.log1p(PER_CELL * observed["rna"] / np.maximum(totals, 1))
    correlations = correlation(shares, np.log1p(PER_CELL * imputed["rna"]))
    areas = area_under_roc(observed["atac"] > 0, imputed["atac"])
    every = {name: np.ones(matrix.shape[1], bool) for name, matrix in observed.items()}
    differs = {name: counts.get(f"{name} differs", every[name]) for name in every}
    return {
        "rna": round(float(np.nanmedian(correlations[differs["rna"]])), 4),
        "atac": round(float(np.nanmedian(areas[differs["atac"]])), 4),
    }


def correlation(observed: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """Pearson's, column by column; NaN where nothing was observed."""
    one, other = observed - observed.mean(0), imputed - imputed.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0))
    return found


def area_under_roc(is_open: np.ndarray, imputed: np.ndarray) -> np.ndarray:
    """Column by column, from ranks; NaN where a region is open in no cell or in all."""
    n_open = is_open.sum(0)
    n_shut = len(is_open) - n_open
    ranks = rankdata(imputed, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = ((ranks * is_open).sum(0) - n_open * (n_open + 1) / 2) / (n_open * n_shut)
    return found
