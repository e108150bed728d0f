"""Peaks of resident memory, each in a process of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fresh_process import in_fresh_process
from paired import Row, Target, compared, in_turn
from speed_records import Section, section_of

N_GENES, NONZERO_SHARE = 2_000, 0.10
DENOISED_CELLS, SAMPLED_CELLS, TRAINED_CELLS = 20_000, 4_000, 20_000
N_SAMPLES = 10
BEYOND_OUTPUT = 300.0  # MB
N_REGIONS, OPEN_SHARE, CHROMATIN_CELLS, CHROMATIN_MOST = 200_000, 0.03, 5_000, 6_000.0  # MB
MOST_REPEATS = 3  # memory hardly scatters


def measure(asked: argparse.Namespace) -> Section:
    """Denoising at one draw and at ten, training."""
    n_denoised, n_sampled, n_trained = (
        max(256, int(n * asked.scale)) for n in (DENOISED_CELLS, SAMPLED_CELLS, TRAINED_CELLS)
    )
    output = 4 * n_denoised * N_GENES / 1e6
    what = f"denoising {n_denoised:,} cells, output of {output:,.0f} MB included"
    rows = [
        row(what, "denoise", (n_denoised, None), asked, Target("value", output + BEYOND_OUTPUT)),
        row(f"denoising {n_sampled:,} cells, {N_SAMPLES} draws", "denoise", (n_sampled, N_SAMPLES), asked),
        row(f"training on {n_trained:,} cells, one epoch and the latent", "train", (n_trained,), asked),
        of_chromatin(max(256, int(CHROMATIN_CELLS * asked.scale)), asked),
    ]
    how = (
        f"the peak of resident memory during a call above what was held before it, {N_GENES:,} genes, each in a fresh "
        "process in which a small call of the same kind came first, so that what it imports is not counted. Denoising: "
        "`get_normalized_expression(return_numpy=True)` and `tl.denoise`, with the output. Training: from the AnnData "
        "to the latent of all cells, with the default settings of both. PeakVI: the same, "
        f"{OPEN_SHARE:.0%} of the regions open, the input counted too; scvi-tools is not run at this size."
    )
    return section_of("memory", how, rows, threads=asked.threads, device="cpu")


def of_chromatin(n_cells: int, asked: argparse.Namespace) -> Row:
    """Megabytes of a fit of PeakVI, with the counts that it is given."""
    megabytes = in_fresh_process("memory_calls", "train_peakvi", n_cells, N_REGIONS, OPEN_SHARE, asked.threads)
    what = (
        f"peak memory of PeakVI on {n_cells:,} cells x {N_REGIONS:,} regions, one epoch and the latent, input included"
    )
    print(f"{what}: {megabytes:,.0f} MB", flush=True)
    return Row(what, "MB", "lower", [megabytes], target=Target("value", CHROMATIN_MOST))


def row(
    what: str, kind: str, arguments: tuple[Any, ...], asked: argparse.Namespace, target: Target | None = None
) -> Row:
    """Megabytes of one kind of call."""
    contestants = {side: peak_of(f"{kind}_{side}", arguments, asked) for side in ("peer", "ours")}
    repeats = min(asked.repeats, MOST_REPEATS)
    figures = in_turn(what, contestants, repeats=repeats, unit="MB", warm_up=False)
    return compared(f"peak memory of {what}", "MB", "lower", figures["peer"], figures["ours"], target)


def peak_of(function: str, arguments: tuple[Any, ...], asked: argparse.Namespace) -> Callable[[], float]:
    """A call that runs one of the functions of memory_calls.py in a process of its own."""
    return lambda: in_fresh_process("memory_calls", function, *arguments, N_GENES, NONZERO_SHARE, asked.threads)
