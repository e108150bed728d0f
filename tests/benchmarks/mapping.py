"""Query mapping on real batches: each of five studies of blood mapped onto the four others, labels carried over.

    python tests/benchmarks/mapping.py --peer      # scvi-tools; some forty minutes on one core, kept in --cache
    python tests/benchmarks/mapping.py             # scvi_pp, and the table of both
    python tests/benchmarks/mapping.py --novel     # types left out of the reference: is the confidence low?

800 cells of each study, the 2,000 most variable genes. Labels by the 15 nearest cells of the reference, weighted by the inverse
of their distance, from the latent space of either package: accuracy over cells whose type the reference has, and the mean of
the F1 scores of types. Needs the real sets, and scvi-tools for --peer.
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
import runs
from real_sets import default_data_dir, prepare
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

CELLS_OF_BATCH = 800
NEIGHBORS = 15
# what scvi-tools' own pages recommend for a reference; and the defaults
OPTIONS = {
    "recommended": {
        "encode_covariates": True,
        "n_layers": 2,
        "dropout_rate": 0.2,
        "use_layer_norm": "both",
        "use_batch_norm": "none",
    },
    "default": {},
}
# of our fit of the reference: a larger network that is shown batches takes longer than the default, which is some ten here
OUR_TRAINING = {"recommended": {"max_epochs": 60, "early_stopping": False}, "default": {}}
PEER_EPOCHS_OF_QUERY = 200  # of scvi-tools' page on mapping
NOVEL = (
    ("10x_pbmc3k", "B"),
    ("10x_pbmc3k", "CD14 Mono"),
    ("10x_pbmc4k", "NK"),
    ("kang_ctrl", "B"),
    ("zheng_facs", "NK"),
)


def main() -> None:
    """Run the part asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="fit scvi-tools where the cache has no run yet")
    parser.add_argument("--novel", action="store_true", help="the confidence of types that the reference lacks")
    parser.add_argument("--data", type=Path, default=default_data_dir(), help="folder of the .h5ad files")
    parser.add_argument("--cache", type=Path, default=runs.DEFAULT_CACHE, help="where runs are kept (not committed)")
    asked = parser.parse_args()
    cells = studies(asked.data)
    if asked.novel:
        tell_novel(cells)
    elif asked.peer:
        for name, batch in splits(cells):
            path = asked.cache / f"mapping-{name}-{batch}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(transferred(cells, batch, name, of_peer)))
                print(path.name, path.read_text(), flush=True)
    else:
        tell(cells, asked.cache)


def studies(data: Path) -> ad.AnnData:
    """As many cells of each study, by chance."""
    cells, random = prepare("pbmc5", data), np.random.default_rng(0)
    rows = [np.flatnonzero(cells.obs["batch"] == batch) for batch in cells.obs["batch"].unique()]
    return cells[np.sort(np.concatenate([random.choice(each, CELLS_OF_BATCH, replace=False) for each in rows]))].copy()


def splits(cells: ad.AnnData) -> list[tuple[str, str]]:
    """Every study as the query, with every set of options; those of the recommended options first."""
    return [(name, str(batch)) for name in OPTIONS for batch in sorted(cells.obs["batch"].unique())]


def transferred(
    cells: ad.AnnData, batch: str, name: str, fit: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """How well the labels of a study are found from those of the others, and the seconds of fit and mapping."""
    is_query = (cells.obs["batch"] == batch).to_numpy()
    reference, query = cells[~is_query].copy(), cells[is_query].copy()
    seconds: list[float] = []
    of_reference, of_query = fit(reference, query, name, seconds)
    labels, truth = (each.obs["label"].astype(str).to_numpy() for each in (reference, query))
    found = KNeighborsClassifier(NEIGHBORS, weights="distance").fit(of_reference, labels).predict(of_query)
    known = np.isin(truth, labels)
    macro = f1_score(truth[known], found[known], labels=np.unique(truth[known]), average="macro")
    accuracy = float((found == truth)[known].mean())
    return {"accuracy": accuracy, "f1": float(macro), "fit_seconds": seconds[0], "map_seconds": seconds[1]}


def of_ours(reference: ad.AnnData, query: ad.AnnData, name: str, seconds: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The latent positions of both, by scvi_pp."""
    import scvi_pp as svp

    svp.settings.verbosity = 0
    started = time.perf_counter()
    svp.tl.scvi(reference, batch_key="batch", denoise=False, **OPTIONS[name], **OUR_TRAINING[name])
    seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    svp.tl.map_query(query, reference)
    seconds.append(time.perf_counter() - started)
    return reference.obsm["X_scvi"], query.obsm["X_scvi"]


def of_peer(reference: ad.AnnData, query: ad.AnnData, name: str, seconds: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The same by scvi-tools, without the weight decay that would move the reference."""
    import scvi
    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|scvi")
    scvi.settings.seed = 0
    run = {"accelerator": "cpu", "enable_progress_bar": False}
    started = time.perf_counter()
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch")
    model = scvi.model.SCVI(reference, **OPTIONS[name])
    model.train(**run)
    seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    mapped = scvi.model.SCVI.load_query_data(query, model)
    mapped.train(max_epochs=PEER_EPOCHS_OF_QUERY, plan_kwargs={"weight_decay": 0.0}, **run)
    seconds.append(time.perf_counter() - started)
    return model.get_latent_representation(), mapped.get_latent_representation()


def tell(cells: ad.AnnData, cache: Path) -> None:
    """A line for each query and set of options."""
    print(
        "| query | options | accuracy: scvi-tools, scvi_pp | macro F1 | seconds of the mapping |\n| --- | --- | --- | --- | --- |"
    )
    for name, batch in splits(cells):
        ours, path = transferred(cells, batch, name, of_ours), cache / f"mapping-{name}-{batch}.json"
        peer = json.loads(path.read_text()) if path.exists() else dict.fromkeys(ours, float("nan"))
        pairs = (f"{peer[what]:.3f}, {ours[what]:.3f}" for what in ("accuracy", "f1"))
        times = f"{peer['map_seconds']:.0f}, {ours['map_seconds']:.1f}"
        print(f"| {batch} | {name} | {' | '.join(pairs)} | {times} |", flush=True)


def tell_novel(cells: ad.AnnData) -> None:
    """How often a cell of a known type is trusted more than one of a type that was left out of the reference."""
    import scvi_pp as svp

    svp.settings.verbosity = 0
    for batch, left_out in NOVEL:
        is_query, is_novel = (cells.obs["batch"] == batch).to_numpy(), (cells.obs["label"] == left_out).to_numpy()
        reference, query = cells[~is_query & ~is_novel].copy(), cells[is_query].copy()
        svp.tl.scvi(reference, batch_key="batch", denoise=False)
        svp.tl.map_query(query, reference, max_epochs=0)
        confidence, known = query.obs["scvi_mapping_confidence"], ~is_novel[is_query]
        auroc = roc_auc_score(known, confidence)
        print(f"| {batch} | {left_out} | {(~known).sum()} | {auroc:.2f} | {confidence[known].mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
