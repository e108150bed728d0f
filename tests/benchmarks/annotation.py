"""Labels of a study that has none from four that have: scANVI on real batches, and a classifier on the scVI latent space.

    python tests/benchmarks/annotation.py --peer        # scvi-tools; some forty minutes on one core, kept in --cache
    python tests/benchmarks/annotation.py               # scvi_pp, and the table of both
    python tests/benchmarks/annotation.py --few 10      # ten labelled cells of each type in all, of whatever study
    python tests/benchmarks/annotation.py --speed       # seconds of an epoch of both, in turn

800 cells of each of five studies of blood, the 2,000 most variable genes, all in one fit; the labels of one study are hidden.
Accuracy over its cells and the mean of the F1 scores of its types. scvi-tools as its pages do it: scVI, then scANVI from it.
Besides, a logistic regression on the scVI latent space of either. Needs the real sets, and scvi-tools for --peer.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import runs
from mapping import studies
from real_sets import default_data_dir
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

HIDDEN = "unlabeled"
BINS = 15  # of the calibration error
MEASURES = ("accuracy", "f1", "of_regression", "f1_of_regression", "calibration_error")


def main() -> None:
    """Run the part asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="fit scvi-tools where the cache has no run yet")
    parser.add_argument("--few", type=int, default=0, help="labelled cells of each type, instead of whole studies")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each, whose median is told")
    parser.add_argument("--data", type=Path, default=default_data_dir(), help="folder of the .h5ad files")
    parser.add_argument("--cache", type=Path, default=runs.DEFAULT_CACHE, help="where runs are kept (not committed)")
    parser.add_argument("--speed", action="store_true", help="how long an epoch of a new fit takes, of both in turn")
    asked = parser.parse_args()
    cells = studies(asked.data)
    if asked.speed:
        tell_speed(cells)
        return
    splits = few_labels(cells, asked.few) if asked.few else hidden_studies(cells)
    if asked.peer:
        for seed in range(asked.seeds):
            for name, is_hidden in splits.items():
                path = run_of_peer(asked.cache, name, seed)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(annotated(cells, is_hidden, of_peer, seed=seed)))
                    print(path.name, path.read_text(), flush=True)
    else:
        tell(cells, splits, asked.cache, asked.seeds)


def run_of_peer(cache: Path, name: str, seed: int) -> Path:
    """Where a run of scvi-tools is kept."""
    return cache / f"annotation-{name}-{seed}.json"


def hidden_studies(cells: ad.AnnData) -> dict[str, np.ndarray]:
    """The cells without a label, for each study that may be the one."""
    batch = cells.obs["batch"].astype(str).to_numpy()
    return {str(name): batch == name for name in np.unique(batch)}


def few_labels(cells: ad.AnnData, n: int) -> dict[str, np.ndarray]:
    """All but some cells of each type, for three choices of these."""
    splits = {}
    for choice in range(3):
        random, is_hidden = np.random.default_rng(choice), np.ones(cells.n_obs, dtype=bool)
        for rows in cells.obs.groupby("label", observed=True).indices.values():
            is_hidden[random.choice(rows, min(n, len(rows)), replace=False)] = False
        splits[f"{n}-of-each-{choice}"] = is_hidden
    return splits


def annotated(
    cells: ad.AnnData, is_hidden: np.ndarray, fit: Callable[..., tuple[np.ndarray, pd.DataFrame]], *, seed: int
) -> dict[str, float]:
    """How well the hidden labels are found, and the seconds of both fits."""
    truth = cells.obs["label"].astype(str).to_numpy()
    given = cells.copy()
    given.obs["label"] = np.where(is_hidden, HIDDEN, truth)
    seconds: list[float] = []
    latent, probabilities = fit(given, seconds, seed)
    regression = LogisticRegression(max_iter=2000).fit(latent[~is_hidden], truth[~is_hidden])
    asked = is_hidden & np.isin(truth, truth[~is_hidden])
    found = probabilities.columns.to_numpy().astype(str)[probabilities.to_numpy().argmax(1)]
    of_regression = regression.predict(latent)
    return {
        **_scores(truth[asked], found[asked], ("accuracy", "f1")),
        **_scores(truth[asked], of_regression[asked], ("of_regression", "f1_of_regression")),
        "calibration_error": calibration_error(probabilities.to_numpy()[asked].max(1), (found == truth)[asked]),
        "scvi_seconds": seconds[0],
        "scanvi_seconds": seconds[1],
    }


def _scores(truth: np.ndarray, found: np.ndarray, names: tuple[str, str]) -> dict[str, float]:
    macro = f1_score(truth, found, labels=np.unique(truth), average="macro")
    return dict(zip(names, (float((truth == found).mean()), float(macro)), strict=True))


def calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """The mean distance of confidence and accuracy, over equal steps of confidence."""
    step = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(sum(abs((confidence - is_right)[step == each].sum()) for each in range(BINS)) / len(confidence))


def of_ours(given: ad.AnnData, seconds: list[float], seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """The scVI latent space, and the probabilities of labels of tl.scanvi in one call."""
    import scvi_pp as svp

    svp.settings.verbosity = 0
    started = time.perf_counter()
    svp.tl.scvi(given, batch_key="batch", denoise=False, rng=seed)
    seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    svp.tl.scanvi(given, "label", unlabeled_category=HIDDEN, batch_key="batch", denoise=False, rng=seed)
    seconds.append(time.perf_counter() - started)
    levels = given.obs["scanvi"].cat.categories
    return given.obsm["X_scvi"], pd.DataFrame(given.obsm["scanvi_probabilities"], columns=levels)


def of_peer(given: ad.AnnData, seconds: list[float], seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """The same by scvi-tools with all its defaults."""
    import scvi
    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|scvi")
    scvi.settings.seed = seed
    run = {"accelerator": "cpu", "enable_progress_bar": False}
    started = time.perf_counter()
    scvi.model.SCVI.setup_anndata(given, batch_key="batch")
    below = scvi.model.SCVI(given)
    below.train(**run)
    seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    model = scvi.model.SCANVI.from_scvi_model(below, HIDDEN, labels_key="label")
    model.train(**run)
    seconds.append(time.perf_counter() - started)
    return below.get_latent_representation(), model.predict(soft=True)


def tell_speed(cells: ad.AnnData) -> None:
    """Seconds of an epoch, as the difference of a short and a longer fit; one study has no labels.

    Ours are long enough for kernels to be compiled, as those of the default run are.
    """
    given = cells.copy()
    given.obs["label"] = given.obs["label"].astype(str).where(given.obs["batch"] != "kang_ctrl", HIDDEN)
    pairs = []
    for _ in range(3):
        peer = (_seconds(_epochs_of_peer, given, 5) - _seconds(_epochs_of_peer, given, 1)) / 4
        ours = (_seconds(_epochs_of_ours, given, 32) - _seconds(_epochs_of_ours, given, 16)) / 16
        pairs.append((peer, ours))
        print(f"scvi-tools {peer:.2f} s, scvi_pp {ours:.2f} s: {peer / ours:.1f} times", flush=True)
    print(f"median: {np.median([peer / ours for peer, ours in pairs]):.1f} times")


def _seconds(fit: Callable[[ad.AnnData, int], None], given: ad.AnnData, n_epochs: int) -> float:
    started = time.perf_counter()
    fit(given.copy(), n_epochs)
    return time.perf_counter() - started


def _epochs_of_ours(given: ad.AnnData, n_epochs: int) -> None:
    import scvi_pp as svp

    svp.settings.verbosity = 0
    options = {"max_epochs": n_epochs, "validation_size": 0, "denoise": False, "batch_key": "batch"}
    svp.tl.scanvi(given, "label", unlabeled_category=HIDDEN, **options)


def _epochs_of_peer(given: ad.AnnData, n_epochs: int) -> None:
    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|scvi")
    scvi.model.SCANVI.setup_anndata(given, "label", HIDDEN, batch_key="batch")
    model = scvi.model.SCANVI(given)
    model.train(max_epochs=n_epochs, train_size=1.0, accelerator="cpu", enable_progress_bar=False)


def tell(cells: ad.AnnData, splits: dict[str, np.ndarray], cache: Path, n_seeds: int) -> None:
    """A line for each split."""
    head = (
        "hidden",
        "accuracy",
        "macro F1",
        "accuracy of a regression",
        "its macro F1",
        "calibration error",
        "seconds",
    )
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for name, is_hidden in splits.items():
        fits = [annotated(cells, is_hidden, of_ours, seed=seed) for seed in range(n_seeds)]
        paths = [path for seed in range(n_seeds) if (path := run_of_peer(cache, name, seed)).exists()]
        peers = [json.loads(path.read_text()) for path in paths] or [dict.fromkeys(fits[0], float("nan"))]
        ours, peer = (
            {what: float(np.median([fit[what] for fit in some])) for what in fits[0]} for some in (fits, peers)
        )
        pairs = [f"{peer[what]:.3f}, {ours[what]:.3f}" for what in MEASURES]
        seconds = f"{peer['scvi_seconds'] + peer['scanvi_seconds']:.0f}, {ours['scanvi_seconds']:.1f}"
        print(f"| {name} ({len(paths)} of {n_seeds}) | {' | '.join(pairs)} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
