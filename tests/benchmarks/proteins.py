"""CITE-seq of cord blood: how well held-out cells are explained, and proteins imputed that half of the cells hide.

    python tests/benchmarks/proteins.py --peer     # scvi-tools; some twenty minutes a seed on one core, kept in --cache
    python tests/benchmarks/proteins.py            # scvi_pp, and the table of both
    python tests/benchmarks/proteins.py --speed    # seconds of an epoch of both, in turn

1,500 of the 8,617 cells by chance, 2,000 genes, 10 proteins; defaults of both packages. *Held out*: the mean log likelihood of a
tenth of the cells, of RNA and proteins together, by importance sampling with 100 draws. It is computed once for both: the
weights of scvi-tools are copied into our network, whose terms are its own (tests/parity). *Imputed*: a random half of the
cells, as a batch, shows no proteins; the correlation over these cells of what is expected there with the log of what was
counted, the mean over proteins. *Short*: our run with `max_epochs=30`, from the call to the end, and how well it explains
the same held-out cells. Needs the real sets, and scvi-tools for --peer.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import runs
from real_sets import default_data_dir
from scipy.stats import spearmanr

N_CELLS, N_DRAWS = 1500, 100
FEW_EPOCHS = 30  # of a short run, that is to be as good as the whole run of scvi-tools
HIDDEN, SHOWN = "hides proteins", "shows proteins"


def main() -> None:
    """Run the part asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="fit scvi-tools where the cache has no run yet")
    parser.add_argument("--seeds", type=int, default=3, help="how many choices of cells")
    parser.add_argument("--speed", action="store_true", help="how long an epoch takes, of both in turn")
    parser.add_argument("--data", type=Path, default=default_data_dir(), help="folder of the .h5mu files")
    parser.add_argument("--cache", type=Path, default=runs.DEFAULT_CACHE, help="where runs are kept (not committed)")
    asked = parser.parse_args()
    if asked.speed:
        tell_speed(chosen(asked.data, 0)[0])
        return
    for seed in range(asked.seeds):
        path = asked.cache / f"proteins-{seed}.json"
        if asked.peer and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(of_peer(*chosen(asked.data, seed), seed)))
        if asked.peer:
            print(path.name, path.read_text(), flush=True)
        else:
            tell(seed, of_ours(*chosen(asked.data, seed), seed), json.loads(path.read_text()) if path.exists() else {})


def chosen(data: Path, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Some cells, of which half are of the batch that hides its proteins; and which are held out."""
    mudata.set_options(pull_on_update=False)
    whole, random = mudata.read_h5mu(data / "cbmc_citeseq_8617.h5mu"), np.random.default_rng(seed)
    rows = np.sort(random.choice(whole.n_obs, N_CELLS, replace=False))
    rna, proteins = whole["rna"][rows], whole["protein"][rows]
    adata = ad.AnnData(rna.X.copy(), obs=pd.DataFrame(index=rna.obs_names), var=rna.var[[]])
    adata.obs["batch"] = np.where(random.random(N_CELLS) < 0.5, HIDDEN, SHOWN)
    adata.obsm["proteins"] = proteins.to_df()
    return adata, random.random(N_CELLS) < 0.1


def hidden(adata: ad.AnnData) -> ad.AnnData:
    """The same without the proteins of the batch that hides them."""
    other = adata.copy()
    other.obsm["proteins"] = other.obsm["proteins"].where(other.obs["batch"] == SHOWN, 0.0)
    return other


def agreement(imputed: pd.DataFrame, adata: ad.AnnData) -> dict[str, float]:
    """Of imputed with counted proteins over the cells that hid them: means over proteins."""
    is_hidden = (adata.obs["batch"] == HIDDEN).to_numpy()
    counted, found = np.log1p(adata.obsm["proteins"].to_numpy()[is_hidden]), imputed.to_numpy()[is_hidden]
    columns = range(counted.shape[1])
    return {
        "spearman": float(np.mean([spearmanr(counted[:, i], found[:, i]).statistic for i in columns])),
        "pearson": float(np.mean([np.corrcoef(counted[:, i], np.log1p(found[:, i]))[0, 1] for i in columns])),
    }


def of_ours(adata: ad.AnnData, is_held_out: np.ndarray, seed: int) -> dict[str, float]:
    """By scvi_pp."""
    import scvi_pp as svp

    svp.settings.verbosity = 0
    options: dict[str, Any] = {"protein_obsm": "proteins", "denoise": False, "rng": seed, "device": "cpu"}
    known, test, blind = adata[~is_held_out].copy(), adata[is_held_out].copy(), hidden(adata)
    started = time.perf_counter()
    svp.tl.totalvi(known, **options)
    seconds = time.perf_counter() - started
    explained = svp.get.marginal_log_likelihood(known, adata_new=test, n_samples=N_DRAWS)
    bound = svp.get.elbo(known, adata_new=test, n_samples=10)
    short = known.copy()
    started = time.perf_counter()
    svp.tl.totalvi(short, **options, max_epochs=FEW_EPOCHS, key_added="short")
    seconds_of_short = time.perf_counter() - started
    of_short = svp.get.marginal_log_likelihood(short, key="short", adata_new=test, n_samples=N_DRAWS)
    svp.tl.totalvi(blind, batch_key="batch", **options)
    imputed = svp.get.denoised(blind, mod="protein", include_background=True)
    found = _result(explained, bound, agreement(imputed, adata), seconds, known.uns["totalvi"]["params"]["n_epochs"])
    return found | {"likelihood_of_short": of_short, "seconds_of_short": seconds_of_short}


def of_peer(adata: ad.AnnData, is_held_out: np.ndarray, seed: int) -> dict[str, float]:
    """By scvi-tools."""
    import scvi
    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    scvi.settings.seed = seed
    run = {"accelerator": "cpu", "enable_progress_bar": False}
    known, test, blind = adata[~is_held_out].copy(), adata[is_held_out].copy(), hidden(adata)
    scvi.model.TOTALVI.setup_anndata(known, protein_expression_obsm_key="proteins")
    model = scvi.model.TOTALVI(known)
    started = time.perf_counter()
    model.train(**run)
    seconds, n_epochs = time.perf_counter() - started, len(model.history["elbo_train"])
    found = _asked_as_ours(model, test)
    print(f"seed {seed}: likelihood and bound {found}, {n_epochs} epochs, {seconds:.0f} s", flush=True)
    scvi.model.TOTALVI.setup_anndata(blind, batch_key="batch", protein_expression_obsm_key="proteins")
    model = scvi.model.TOTALVI(blind)
    model.train(**run)
    _, imputed = model.get_normalized_expression(
        transform_batch=SHOWN, n_samples=25, include_protein_background=True, library_size=1
    )
    efficiency = float(model.module.log_per_batch_efficiency.exp().mean())
    agreed = agreement(imputed, adata) | {"efficiency": efficiency}
    return _result(float(found[0]), float(found[1]), agreed, seconds, n_epochs)


def _asked_as_ours(model: Any, test: ad.AnnData) -> tuple[float, float]:
    """Marginal log likelihood and bound of cells, by our network with the weights of the peer."""
    import sys
    import types

    import torch
    from scipy.sparse import csr_matrix

    from scvi_pp._backend.models.totalvi import Hyperparameters, Inputs, build
    from scvi_pp._backend.query import Posterior
    from scvi_pp._backend.streams import Cells

    ours = types.ModuleType("tests")  # installed packages bring a `tests` of their own
    ours.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["tests"] = ours
    from tests.parity.totalvi_twins import copy_weights_of_totalvi

    n_cells, n_proteins = test.obsm["proteins"].shape
    network = build(Hyperparameters(test.n_vars, n_proteins, 1, (), 0, False))
    copy_weights_of_totalvi(network, model.module.cpu())
    present = np.tile(np.array([True, False, True]), (n_cells, 1))
    nothing = np.zeros((n_cells, 0))
    counts = csr_matrix(test.X, dtype=np.float32), csr_matrix(test.obsm["proteins"].to_numpy(dtype=np.float32))
    codes = np.zeros(n_cells, dtype=np.int64)
    inputs = Inputs(*counts, present, None, codes, nothing.astype(np.int64), nothing.astype(np.float32), None)
    posterior = Posterior(network, Cells(inputs, torch.device("cpu")))
    return float(posterior.marginal_log_likelihood(N_DRAWS).mean()), float(posterior.elbo(10)["bound"].mean())


def _result(
    explained: float, bound: float, agreed: dict[str, float], seconds: float, n_epochs: int
) -> dict[str, float]:
    return {
        "likelihood": explained,
        "bound": bound,
        **agreed,
        "epochs": n_epochs,
        "seconds": seconds,
        "seconds_per_epoch": seconds / n_epochs,
    }


def tell_speed(adata: ad.AnnData) -> None:
    """Seconds of an epoch, as the difference of a short and a longer fit, with the batches of each and with equal ones."""
    ratios = []
    for _ in range(3):
        peer = (_epochs_of_peer(adata, 6) - _epochs_of_peer(adata, 2)) / 4
        ours, equal = (
            (_epochs_of_ours(adata, 80, **options) - _epochs_of_ours(adata, 40, **options)) / 40
            for options in ({}, {"batch_size": 256})
        )
        ratios.append((peer / ours, peer / equal))
        print(f"scvi-tools {peer:.3f} s, scvi_pp {ours:.3f} s, with batches of 256 {equal:.3f} s", flush=True)
    own, equal = np.median(ratios, axis=0)
    print(f"median: {own:.1f} times, with equal batches {equal:.1f} times")


def _epochs_of_ours(adata: ad.AnnData, n_epochs: int, **options: int) -> float:
    import scvi_pp as svp

    svp.settings.verbosity, mine = 0, adata.copy()
    started = time.perf_counter()
    fixed = {"protein_obsm": "proteins", "validation_size": 0, "denoise": False, "device": "cpu"}
    svp.tl.totalvi(mine, **fixed, **options, max_epochs=n_epochs)
    return time.perf_counter() - started


def _epochs_of_peer(adata: ad.AnnData, n_epochs: int) -> float:
    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    mine = adata.copy()
    scvi.model.TOTALVI.setup_anndata(mine, protein_expression_obsm_key="proteins")
    model = scvi.model.TOTALVI(mine)
    fixed = {"train_size": 1.0, "accelerator": "cpu", "enable_progress_bar": False}
    started = time.perf_counter()
    model.train(max_epochs=n_epochs, early_stopping=False, reduce_lr_on_plateau=False, **fixed)
    return time.perf_counter() - started


def tell(seed: int, ours: dict[str, float], peer: dict[str, float]) -> None:
    """A line for each number: scvi-tools', and ours."""
    for name, value in ours.items():
        print(f"| {seed} | {name} | {peer.get(name, float('nan')):.3f} | {value:.3f} |", flush=True)


if __name__ == "__main__":
    main()
