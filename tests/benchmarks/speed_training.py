"""Cells per second of training."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import anndata as ad
import peer_models
from machine import limit_threads, seconds_of
from paired import Row, Target, compared, in_turn
from scipy.sparse import csr_matrix
from simulated import simulated
from speed_records import Section, section_of

import scvi_pp as svp

EQUAL = {"batch_size": 128}
"""What makes our run one of the peer's batch size and precision; whatever `tl.scvi` does by default is left out."""


@dataclass(frozen=True)
class Size:
    """One data set: a turn takes a few seconds on either side."""

    n_genes: int
    nonzero_share: float
    n_cells: int
    n_epochs: int
    equal_target: float | None


# entries enough that our fit is compiled, as that of any data set of some 1,500 cells is
SIZES = (Size(2_000, 0.10, 4_096, 8, 5.0), Size(10_000, 0.08, 2_048, 4, None), Size(36_000, 0.06, 1_024, 2, 8.0))


def measure(asked: argparse.Namespace) -> Section:
    """Equal settings and our defaults, against the peer's defaults, at every size."""
    limit_threads(asked.threads)
    rows = [row for size in SIZES for row in rows_of(size, asked)]
    how = (
        "ZINB, one hidden layer of 128, 10 latent dimensions, no held-out cells, on simulated counts. scvi-tools: the "
        "whole of `train(max_epochs, train_size=1.0)`, batches of 128, float32, but no setting up before it. scvi_pp: the fit "
        "inside `tl.scvi(max_epochs, validation_size=0, early_stopping=False)`, as it records it. *Equal*: batches of "
        "128, float32, which is also the default. Rates are cells times epochs by seconds."
    )
    return section_of("training", how, rows, threads=asked.threads, device=asked.device)


def rows_of(size: Size, asked: argparse.Namespace) -> list[Row]:
    """Three contestants in turn; both of ours share the peer's figures."""
    n_cells = max(256, int(size.n_cells * asked.scale) // 128 * 128)
    counts = simulated(n_cells, size.n_genes, size.nonzero_share)
    seen = n_cells * size.n_epochs
    contestants = {
        "peer": lambda: seen / peer_seconds(counts, size.n_epochs, asked.device),
        "equal": lambda: seen / our_seconds(counts, size.n_epochs, asked.device, **EQUAL),
        "in batches of 512": lambda: seen / our_seconds(counts, size.n_epochs, asked.device, batch_size=512),
    }
    name = f"training, {size.n_genes:,} genes"
    figures = in_turn(name, contestants, repeats=asked.repeats, unit="cells/s")
    what = f"{name} ({n_cells:,} cells, epochs: {size.n_epochs})"
    equal_target = None if size.equal_target is None else Target("ratio", size.equal_target)
    return [
        compared(f"{what}, equal", "cells/s", "higher", figures["peer"], figures["equal"], equal_target),
        compared(f"{what}, ours in batches of 512", "cells/s", "higher", figures["peer"], figures["in batches of 512"]),
    ]


def peer_seconds(counts: csr_matrix, n_epochs: int, device: str) -> float:
    """Of `train` alone."""
    model = peer_models.new_model(ad.AnnData(counts))
    return seconds_of(lambda: peer_models.train(model, n_epochs, device), device)


def our_seconds(counts: csr_matrix, n_epochs: int, device: str, **options: int) -> float:
    """Of the fit alone, by its own clock."""
    adata = ad.AnnData(counts)
    with svp.settings.override(verbosity=0, device=device):
        svp.tl.scvi(
            adata,
            max_epochs=n_epochs,
            validation_size=0,
            early_stopping=False,
            denoise=False,
            save_model=False,
            **options,
        )
    return float(adata.uns["scvi"]["params"]["seconds"])
