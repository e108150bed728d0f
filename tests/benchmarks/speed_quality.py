"""Seconds until `tl.scvi` has passed the best held-out ELBO of a default run of scvi-tools, on real sets."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from statistics import median

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import peer_models
import runs
from machine import finish, limit_threads, seconds_of
from ours import mean_elbo
from paired import Row, Target, compared, readable
from peer import METHOD as PEER
from real_sets import REAL_SETS, batch_key_of, default_data_dir, held_out, prepare
from speed_records import Section, section_of

import scvi_pp as svp

EPOCHS_TIMED = 5
TO_BEST = "time to pass its best ELBO, against its time to its best"
TO_END = "time to pass its best ELBO, against its whole run"
WHOLE = "whole call, against its whole run"
OF_ALL_SETS = {TO_BEST: Target("ratio", 100.0), TO_END: Target("ratio", 100.0), WHOLE: Target("ratio", 50.0)}
OF_EACH_SET = {TO_BEST: Target("ratio", 40.0), TO_END: Target("ratio", 40.0), WHOLE: None}


@dataclass(frozen=True)
class Pair:
    """A kept default run of scvi-tools, its seconds here, and a whole call of ours on the same cells."""

    peer_run: runs.Run
    peer_epoch: float
    our_call: float
    our_fit: float
    our_epochs: int
    our_elbo: float
    passes_at: float
    """The first epoch of ours whose held-out ELBO is at least the peer's best; infinite if none is."""

    @property
    def seconds_to_pass(self) -> float:
        """Of our call: all that is not fit, and the fit up to the end of that epoch."""
        return self.our_call - self.our_fit + self.our_fit * self.passes_at / self.our_epochs

    @property
    def peer_seconds_to_best(self) -> float:
        return self.peer_epoch * self.peer_run.best_epoch

    @property
    def peer_seconds_whole(self) -> float:
        return self.peer_epoch * self.peer_run.epochs


def measure(asked: argparse.Namespace) -> Section:
    """Every set of which the fidelity benchmark has kept a run of the peer."""
    limit_threads(asked.threads)
    cache = asked.runs or runs.DEFAULT_CACHE
    kept = {name: found for name in REAL_SETS if (found := runs.load(cache, PEER, name))}
    if not kept:
        raise SystemExit(f"{cache} has no runs of {PEER}: run tests/benchmarks/fidelity.py --peer first")
    pairs = {REAL_SETS[name].title: pairs_of(name, peer_runs, asked) for name, peer_runs in kept.items()}
    how = (
        "real sets, 10 % of the cells held out. scvi-tools' best held-out ELBO, the epoch it came in (of evaluations "
        "every 10) and its number of epochs are those of its kept default runs of the fidelity benchmark; they "
        "take too long to repeat here. Its seconds are **computed**: the median of "
        f"{EPOCHS_TIMED} epochs measured here (the first, which is slower, left out; nothing evaluated), times its "
        "epochs; its set-up and latent count as nothing. Ours is **measured**: the whole call of `tl.scvi(denoise="
        "False)` with its defaults, with the latent. It *passes* at the end of the first epoch whose held-out ELBO (one "
        "draw of the latent) is at least the peer's best, and all of the call but the later epochs is counted. "
        "Measured in turn, on each split that has a kept run, on sets with fewer splits several times."
    )
    rows = [*summary(pairs), *(row for title, of_set in pairs.items() for row in rows_of(title, of_set))]
    return section_of("quality", how, rows, threads=asked.threads, device=asked.device)


def pairs_of(name: str, peer_runs: list[runs.Run], asked: argparse.Namespace) -> list[Pair]:
    """The peer's epochs and our call in turn, on each seed."""
    adata = prepare(name, asked.data or default_data_dir())
    if asked.scale < 1:
        adata = adata[: max(256, int(adata.n_obs * asked.scale))].copy()
    else:
        check_same_cells(adata, name, peer_runs)
    outside = held_out(adata, peer_runs[0].seed)
    peer_seconds_an_epoch(adata, outside, asked.device, n_timed=1)  # the first turn, not counted
    call_ours(adata, outside, 0, asked.device, max_epochs=1)
    pairs = []
    for _ in range(max(1, asked.repeats // len(peer_runs))):
        pairs += [pair_of(adata, run, asked.device) for run in peer_runs]
    return pairs


def check_same_cells(adata: ad.AnnData, name: str, peer_runs: list[runs.Run]) -> None:
    """The kept figures are of these cells and genes, or there is nothing to compare."""
    here = (adata.n_obs, adata.uns["genes_sha256"])
    if any((run.n_cells, run.genes_sha256) != here for run in peer_runs):
        raise SystemExit(f"the kept runs of {name} are of other cells or genes: run fidelity.py --peer anew")


def pair_of(adata: ad.AnnData, peer_run: runs.Run, device: str) -> Pair:
    """One turn of each."""
    outside = held_out(adata, peer_run.seed)
    peer_epoch = peer_seconds_an_epoch(adata, outside, device, n_timed=EPOCHS_TIMED)
    our_call = seconds_of(lambda: call_ours(adata, outside, peer_run.seed, device), device)
    curve, facts = np.asarray(adata.uns["scvi"]["history"]["elbo_validation"]), adata.uns["scvi"]["params"]
    passed = np.flatnonzero(curve >= peer_run.elbo_best)
    pair = Pair(
        peer_run=peer_run,
        peer_epoch=peer_epoch,
        our_call=our_call,
        our_fit=float(facts["seconds"]),
        our_epochs=int(facts["n_epochs"]),
        our_elbo=mean_elbo(adata, outside),
        passes_at=float(passed[0] + 1) if len(passed) else math.inf,
    )
    print(
        f"{peer_run.set_name} seed {peer_run.seed}: peer {peer_epoch:.3g} s an epoch, best {peer_run.elbo_best:.2f} at "
        f"{peer_run.best_epoch} of {peer_run.epochs}; ours {our_call:.3g} s, {pair.our_elbo:.2f}, passes after "
        f"{readable(pair.seconds_to_pass)} s (epoch {pair.passes_at:g} of {pair.our_epochs})",
        flush=True,
    )
    return pair


def call_ours(adata: ad.AnnData, outside: np.ndarray, seed: int, device: str, **budget: int) -> None:
    """As a user calls it, but for the layer, which the peer's run does not compute either."""
    with svp.settings.override(verbosity=0, device=device):
        svp.tl.scvi(
            adata,
            batch_key=batch_key_of(adata),
            validation_indices=outside,
            denoise=False,
            random_state=seed,
            **budget,
        )


class EpochClock(pl.Callback):
    """When each epoch began."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        finish(self.device)
        self.starts.append(time.perf_counter())


def peer_seconds_an_epoch(adata: ad.AnnData, outside: np.ndarray, device: str, *, n_timed: int) -> float:
    """Median over epochs, from the beginning of one to that of the next; the first is not timed."""
    clock = EpochClock(device)
    inside = np.setdiff1d(np.arange(adata.n_obs), outside)
    unmarked = ad.AnnData(adata.X, obs=adata.obs[["batch"]].copy())  # what setting up writes stays out of our cells
    model = peer_models.new_model(unmarked, batch_key=batch_key_of(adata))
    options = peer_models.training_on(inside, outside)
    peer_models.train(model, n_timed + 2, device, callbacks=[clock], **options)
    return float(np.median(np.diff(clock.starts)[1:]))


def rows_of(title: str, pairs: list[Pair]) -> list[Row]:
    """All that is said of one set."""
    peer_epoch, our_epoch = [pair.peer_epoch for pair in pairs], [pair.our_fit / pair.our_epochs for pair in pairs]
    best, end = [pair.peer_run.elbo_best for pair in pairs], [pair.our_elbo for pair in pairs]
    elbo = f"{title}: held-out ELBO, its best against our end"
    return [
        *(
            compared(f"{title}: {what}", "s", "lower", *sides, OF_EACH_SET[what])
            for what, sides in seconds(pairs).items()
        ),
        compared(f"{title}: one epoch (ours with its evaluation)", "s", "lower", peer_epoch, our_epoch),
        compared(elbo, "nats", "gain", best, end, Target("ratio", 0.0)),
    ]


def seconds(pairs: list[Pair]) -> dict[str, tuple[list[float], list[float]]]:
    """The three comparisons of seconds: the peer's and ours."""
    to_pass, to_end = [pair.seconds_to_pass for pair in pairs], [pair.peer_seconds_whole for pair in pairs]
    return {
        TO_BEST: ([pair.peer_seconds_to_best for pair in pairs], to_pass),
        TO_END: (to_end, to_pass),
        WHOLE: (to_end, [pair.our_call for pair in pairs]),
    }


def summary(pairs: dict[str, list[Pair]]) -> list[Row]:
    """The comparisons of seconds over all sets: each set counts once, by its medians."""
    rows = []
    for what, target in OF_ALL_SETS.items():
        of_sets = [compared(title, "s", "lower", *seconds(of_set)[what]) for title, of_set in pairs.items()]
        peer, ours = [median(row.peer) for row in of_sets], [median(row.ours) for row in of_sets]
        title = f"median over {len(of_sets)} sets: {what}"
        rows.append(Row(title, "s", "lower", ours, peer, target, [row.ratio for row in of_sets]))
    return rows
