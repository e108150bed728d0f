"""One epoch on a million cells: whether it ends, how long it takes, how much memory it wants."""

from __future__ import annotations

import argparse
import math
from concurrent.futures.process import BrokenProcessPool

from fresh_process import in_fresh_process
from paired import Row, Target, readable
from speed_records import Section, section_of

N_CELLS, N_GENES, NONZERO_SHARE = 1_000_000, 2_000, 0.10
MOST_GIGABYTES = 3.0


def measure(asked: argparse.Namespace) -> Section:
    """Once, ours alone."""
    n_cells = asked.cells or max(1000, int(N_CELLS * asked.scale))
    print(f"one epoch of {n_cells:,} cells: simulating, then fitting once ...", flush=True)
    try:
        found = in_fresh_process(__name__, "one_epoch", n_cells, asked.threads, asked.device)
    except (BrokenProcessPool, MemoryError):  # killed for memory, or out of it
        found = {"nonzero": math.nan, "call": math.inf, "fit": math.inf, "gigabytes": math.inf}
    print(f"call {readable(found['call'])} s, {readable(found['gigabytes'])} GB above its input", flush=True)
    what = f"one epoch, {n_cells:,} cells"
    rows = [
        Row(f"{what}: whole call", "s", "lower", [found["call"]], target=Target("finishes")),
        Row(f"{what}: of which the fit", "s", "lower", [found["fit"]]),
        Row(f"{what}: cells by seconds of the whole call", "cells/s", "higher", [n_cells / found["call"]]),
        Row(
            f"{what}: peak memory above the input",
            "GB",
            "lower",
            [found["gigabytes"]],
            target=Target("value", MOST_GIGABYTES),
        ),
    ]
    how = (
        f"{n_cells:,} simulated cells x {N_GENES:,} genes with {readable(found['nonzero'])} non-zero counts a cell, "
        "held in memory as CSR; one call of `tl.scvi(max_epochs=1, denoise=False)` with default settings in a fresh "
        "process, after one on a few cells: reading, nine tenths of the cells trained on, one tenth held out, the "
        "latent of all. Measured once. scvi-tools is not run at this size."
    )
    return section_of("million", how, rows, threads=asked.threads, device=asked.device)


def one_epoch(n_cells: int, threads: int, device: str) -> dict[str, float]:
    """The whole of a process."""
    import anndata as ad
    from machine import limit_threads, seconds_of
    from memory_peak import PeakMemory
    from simulated import simulated

    import scvi_pp as svp

    limit_threads(threads)
    svp.settings.verbosity, svp.settings.device = 0, device
    svp.tl.scvi(ad.AnnData(simulated(256, N_GENES, NONZERO_SHARE)), max_epochs=1, denoise=False)
    adata = ad.AnnData(simulated(n_cells, N_GENES, NONZERO_SHARE))
    with PeakMemory() as memory:
        call = seconds_of(lambda: svp.tl.scvi(adata, max_epochs=1, denoise=False), device)
    fit = float(adata.uns["scvi"]["params"]["seconds"])
    return {"nonzero": adata.X.nnz / n_cells, "call": call, "fit": fit, "gigabytes": memory.megabytes / 1000}
