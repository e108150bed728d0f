"""The fidelity tables of docs/benchmarks.md, from kept runs."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import runs
from machine import processor
from marked_text import markdown, put_between_markers
from real_sets import REAL_SETS, RealSet, prepare
from runs import NOISE_DRAWS, Run
from scores import scores_of

OURS, PEER = "scvi_pp", "scvi-tools"
START, END = "<!-- fidelity: start -->", "<!-- fidelity: end -->"
SUMMARY = ("scIB total", "bio conservation", "batch correction")
DETAIL = ("ARI Leiden", "NMI Leiden", "label silhouette", "15-NN label", "iLISI", "kBET", "15-NN batch")


def write_report(docs_page: Path, cache: Path, data_dir: Path) -> str:
    """Put the tables between the markers of the page, leaving the rest of it alone; return the tables."""
    compared = {name: pair for name in REAL_SETS if all(pair := tuple(runs.load(cache, m, name) for m in (OURS, PEER)))}
    if not compared:
        raise SystemExit(f"no set has kept runs of both {OURS} and {PEER} in {cache}: run --peer and --ours first")
    for ours, peer in compared.values():
        check_comparable([*ours, *peer])
    elbo_rows = [elbo_row(REAL_SETS[name], *pair) for name, pair in compared.items()]
    score_rows: list[list[str]] = []
    for name, pair in compared.items():
        adata = prepare(name, data_dir)
        score_rows += score_block(REAL_SETS[name], *pair, lambda run, adata=adata: scores_of(cache, run, adata))
    every_run = [run for pair in compared.values() for kept in pair for run in kept]
    text = "\n\n".join([provenance(every_run), elbo_table(elbo_rows), score_table(score_rows)])
    if not put_between_markers(docs_page, text, START, END):  # a page without markers gets them at its end
        before = docs_page.read_text() if docs_page.exists() else "# Benchmarks\n"
        docs_page.parent.mkdir(parents=True, exist_ok=True)
        docs_page.write_text(f"{before.rstrip()}\n\n## `tl.scvi` against scvi-tools\n\n{START}\n{END}\n")
        put_between_markers(docs_page, text, START, END)
    return text


def check_comparable(every_run: list[Run]) -> None:
    """Same cells, same genes, same number of threads, or no table."""
    for name in ("n_cells", "n_held_out", "n_genes", "genes_sha256", "threads"):
        found = {getattr(run, name) for run in every_run}
        if len(found) > 1:
            raise SystemExit(f"the runs of {every_run[0].set_name} differ in {name} ({found}): run both again")


def elbo_row(real_set: RealSet, ours: list[Run], peer: list[Run]) -> list[str]:
    """One set: both on the seeds (that is, the splits) that both have run."""
    by_seed = {run.seed: run for run in ours}
    pairs = [(by_seed[run.seed], run) for run in peer if run.seed in by_seed]
    if not pairs:
        raise SystemExit(f"no seed of {peer[0].set_name} was run by both")
    gains = np.array([our.elbo - their.elbo_best for our, their in pairs])
    our_seconds, their_seconds = (np.mean([pair[side].cpu_seconds for pair in pairs]) for side in (0, 1))
    return [
        real_set.title,
        f"{ours[0].n_cells:,} x {ours[0].n_genes:,}",
        str(len(pairs)),
        mean_sd([our.elbo for our, _ in pairs]),
        mean_sd([their.elbo_best for _, their in pairs]),
        mean_sd([their.elbo for _, their in pairs]),
        f"{gains.mean():+.2f} ({gains.min():+.2f} to {gains.max():+.2f})",
        "yes" if gains.mean() >= 0 else "**no**",
        f"{our_seconds:.0f} ({np.mean([our.epochs for our, _ in pairs]):.0f})",
        f"{their_seconds:.0f} ({np.mean([their.epochs for _, their in pairs]):.0f})",
        f"{their_seconds / our_seconds:.1f}x",
    ]


def score_block(
    real_set: RealSet, ours: list[Run], peer: list[Run], score: Callable[[Run], dict[str, float]]
) -> list[list[str]]:
    """Two rows of one set: means over all seeds of each method."""
    rows = []
    for method, kept in ((OURS, ours), (PEER, peer)):
        scored = [score(run) for run in kept]
        means = [f"{np.mean([s[n] for s in scored]):.3f}" if n in scored[0] else "" for n in (*SUMMARY, *DETAIL)]
        title = f"{real_set.title} ({real_set.label_origin} labels)"
        rows.append([title if method == OURS else "", method, str(len(kept)), *means])
    return rows


def elbo_table(rows: list[list[str]]) -> str:
    """Held-out ELBO and seconds."""
    header = ["set", "cells x genes", "seeds", OURS, f"{PEER}, its best", f"{PEER}, at its end"]
    header += ["gain over its best (range)", "at least as good", "our s (epochs)", "its s (epochs)", "faster"]
    note = (
        "Nats per cell, mean ± standard deviation over seeds; higher is better. Each seed is one split: 10 % of the "
        "cells are held out, the same ones for both. Both are measured alike, at KL weight 1, as the mean of "
        f"{NOISE_DRAWS} draws of the latent. *Its best* is the best set of weights among evaluations every 10 epochs, "
        "which scvi-tools passes but does not keep; *at its end* is what its user gets. Ours stops on these held-out "
        "cells and keeps the best weights, so the fair bar is *its best*: both are then chosen on the cells that they "
        "are measured on. Seconds are processor seconds of one thread (what an idle machine takes), with the latent of "
        "all cells, without importing."
    )
    return f"## Held-out ELBO\n\n{note}\n\n{markdown(header, rows)}"


def score_table(rows: list[list[str]]) -> str:
    """scIB scores."""
    note = (
        "Latents of all cells as a user gets them, mean over seeds. 1 is best, except *15-NN batch*: the accuracy with "
        "which neighbours tell the batch (lower mixes better). "
        f"scib-metrics {version('scib-metrics')} on exact neighbours. *Bio conservation* is the mean of ARI and NMI "
        "(Leiden at the resolution of 20 with the best NMI, and k-means), label silhouette, cLISI and isolated labels; "
        "*batch correction* of BRAS, iLISI, kBET, graph connectivity and PCR; *scIB total* is 0.6 and 0.4 of them. "
        "Nothing is rescaled between methods. Derived labels come from Leiden clusters and markers, not from an "
        "experiment: there, small differences say little."
    )
    return f"## Latent space\n\n{note}\n\n{markdown(['set', 'method', 'seeds', *SUMMARY, *DETAIL], rows)}"


def provenance(every_run: list[Run]) -> str:
    """Date, machine, versions and command."""
    dates = sorted({run.date for run in every_run})
    versions = {name: found for run in every_run for name, found in run.versions.items()}
    listed = ", ".join(f"{name} {found}" for name, found in sorted(versions.items()))
    return (
        f"Runs of {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {processor()}, "
        f"{every_run[0].threads} thread(s), no GPU; Python {platform.python_version()}, {listed}. "
        "Default settings of both, raw counts, ZINB.\n\n"
        "```bash\npython tests/benchmarks/fidelity.py --peer --ours --table\n```"
    )


def mean_sd(values: list[float]) -> str:
    """`-480.51 ± 0.32`; without the deviation for one value."""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"
