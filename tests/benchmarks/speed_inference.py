"""Cells per second of the answers that users ask for most: latent positions and denoised expression."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import anndata as ad
import peer_models
from machine import limit_threads, seconds_of
from paired import Row, Target, compared, in_turn
from simulated import simulated
from speed_records import Section, section_of

import scvi_pp as svp
from scvi_pp._fitted_model import open_model

N_CELLS, N_GENES, NONZERO_SHARE = 20_000, 2_000, 0.10
N_EPOCHS = 2  # as many as a fit needs to have its code compiled
LATENT_TARGET, DENOISE_TARGET = Target("ratio", 5.0), Target("ratio", 3.0)


def measure(asked: argparse.Namespace) -> Section:
    """Latent, latent by the engine alone, denoised."""
    limit_threads(asked.threads)
    n_cells = max(256, int(N_CELLS * asked.scale))
    counts = simulated(n_cells, N_GENES, NONZERO_SHARE)
    adata = ad.AnnData(counts)
    model = peer_models.new_model(ad.AnnData(counts))
    peer_models.train(model, N_EPOCHS, asked.device)
    with svp.settings.override(verbosity=0, device=asked.device):
        svp.tl.scvi(adata, max_epochs=N_EPOCHS, denoise=False)
        posterior = open_model(adata, "scvi", verb="benchmark").posterior
        rows = latent_rows(model, adata, posterior.latent_mean, asked) + denoised_rows(model, adata, asked)
    how = (
        f"all of {n_cells:,} simulated cells x {N_GENES:,} genes, after two epochs on both sides. Latent: "
        "`get_latent_representation()` and `get.latent(adata)`. Denoised: `get_normalized_expression("
        "return_numpy=True)`, which takes one draw of the latent position, and `tl.denoise(adata)`, which takes its "
        "mean and writes a layer. Our calls include reading the AnnData and rebuilding the network from what the fit "
        "stored; *the engine alone* starts with both in memory, as scvi-tools' call does."
    )
    return section_of("inference", how, rows, threads=asked.threads, device=asked.device)


def latent_rows(model: object, adata: ad.AnnData, engine: Callable[[], object], asked: argparse.Namespace) -> list[Row]:
    """The call as users make it, and without what comes before the network."""
    contestants = {
        "peer": model.get_latent_representation,
        "ours": lambda: svp.get.latent(adata),
        "engine": engine,
    }
    rates = cells_per_second("latent", contestants, adata.n_obs, asked)
    return [
        compared("latent of all cells", "cells/s", "higher", rates["peer"], rates["ours"], LATENT_TARGET),
        compared("latent of all cells, the engine alone", "cells/s", "higher", rates["peer"], rates["engine"]),
    ]


def denoised_rows(model: object, adata: ad.AnnData, asked: argparse.Namespace) -> list[Row]:
    """The whole layer."""
    contestants = {
        "peer": lambda: model.get_normalized_expression(return_numpy=True),
        "ours": lambda: svp.tl.denoise(adata),
    }
    rates = cells_per_second("denoised", contestants, adata.n_obs, asked)
    what = "denoised expression of all cells"
    return [compared(what, "cells/s", "higher", rates["peer"], rates["ours"], DENOISE_TARGET)]


def cells_per_second(
    what: str, contestants: dict[str, Callable[[], object]], n_cells: int, asked: argparse.Namespace
) -> dict[str, list[float]]:
    """In turn."""
    timed = {name: lambda call=call: n_cells / seconds_of(call, asked.device) for name, call in contestants.items()}
    return in_turn(what, timed, repeats=asked.repeats, unit="cells/s")
