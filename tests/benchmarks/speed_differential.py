"""One against the rest, for every group: `tl.differential_expression` and scvi-tools."""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import peer_models
from machine import limit_threads, seconds_of
from paired import Row, Target, compared, in_turn
from simulated import simulated
from speed_records import Section, section_of

import scvi_pp as svp

N_CELLS, N_GENES, NONZERO_SHARE, N_GROUPS = 50_000, 2_000, 0.1, 10


def measure(asked: argparse.Namespace) -> Section:
    """All groups, and importance weights for one."""
    limit_threads(asked.threads)
    n_cells = max(500, int(N_CELLS * asked.scale))
    adata = ad.AnnData(simulated(n_cells, N_GENES, NONZERO_SHARE))
    adata.obs["group"] = np.random.default_rng(0).choice([f"group{i}" for i in range(N_GROUPS)], n_cells)
    adata.obs["group"] = adata.obs["group"].astype("category")
    contestants = {"peer": peers_test(adata, asked.device), "ours": our_test(adata, asked.device)}
    figures = in_turn("differential expression", contestants, repeats=min(2, asked.repeats), unit="s", warm_up=False)
    what = f"one against the rest, {N_GROUPS} groups, {n_cells:,} cells x {N_GENES:,} genes"
    weighted = seconds_of(lambda: our_call(adata, groups=["group0"], weights="importance"), asked.device)
    rows = [
        compared(what, "s", "lower", figures["peer"], figures["ours"], Target("ratio", 100.0)),
        Row(
            "one group against the rest, with importance weights",
            "s",
            "lower",
            [weighted],
            target=Target("value", 10.0),
        ),
    ]
    how = (
        f"simulated counts, {NONZERO_SHARE:.0%} not zero, groups by chance, models after one epoch. scvi-tools: "
        "`differential_expression(groupby)` with mode change. Ours: `tl.differential_expression(adata, groupby)`, from the "
        "AnnData to the results in it. Both draw 5,000 pairs for each group."
    )
    return section_of("differential", how, rows, threads=asked.threads, device=asked.device)


def peers_test(adata: ad.AnnData, device: str) -> object:
    """Seconds of a call."""
    cells = ad.AnnData(adata.X, obs=adata.obs.copy())
    model = peer_models.new_model(cells)
    peer_models.train(model, 1, device)
    return lambda: seconds_of(
        lambda: model.differential_expression(groupby="group", mode="change", silent=True), device
    )


def our_test(adata: ad.AnnData, device: str) -> object:
    """Seconds of a call."""
    with svp.settings.override(verbosity=0, device=device):
        svp.tl.scvi(adata, max_epochs=1, denoise=False)
    our_call(adata, groups=["group0"])  # what is compiled and imported at first use
    return lambda: seconds_of(lambda: our_call(adata), device)


def our_call(adata: ad.AnnData, **options: object) -> None:
    """Silently."""
    with svp.settings.override(verbosity=0):
        svp.tl.differential_expression(adata, "group", **options)
