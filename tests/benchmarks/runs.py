"""One run of one method on one set with one seed, and the folder in which runs are kept."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "scvi_pp_fidelity"
NOISE_DRAWS = 10
"""Draws of the latent over which every held-out ELBO is averaged."""


@dataclass(frozen=True)
class Run:
    """What one fit gave. ELBOs are means per held-out cell in nats, at KL weight 1: higher is better."""

    method: str
    set_name: str
    seed: int
    elbo: float
    """Of the weights that the run ended with, `NOISE_DRAWS` draws."""
    elbo_best: float
    """Of the weights that did best on the held-out cells during the run, `NOISE_DRAWS` draws."""
    best_epoch: int
    epochs: int
    seconds: float
    cpu_seconds: float
    """Of this process: with one thread, the seconds that an idle machine would have taken."""
    n_cells: int
    n_held_out: int
    n_genes: int
    genes_sha256: str
    threads: int
    date: str
    command: str
    versions: dict[str, str]
    history: dict[str, list[float]] = field(default_factory=dict)


class Stopwatch:
    """Wall and processor seconds of a `with` block."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __enter__(self) -> Stopwatch:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = time.process_time() - self._cpu_started


def json_path(cache: Path, method: str, set_name: str, seed: int) -> Path:
    """`<cache>/<method>/<set>-seed<seed>.json`; the latent lies beside it as `.npz`."""
    return cache / method / f"{set_name}-seed{seed}.json"


def save(cache: Path, run: Run, latent: np.ndarray) -> None:
    """Keep a run: the latent first, so that a JSON file always has one."""
    path = json_path(cache, run.method, run.set_name, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path.with_suffix(".npz"), latent=latent.astype(np.float32))
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(asdict(run), indent=1))
    os.replace(unfinished, path)


def load(cache: Path, method: str, set_name: str) -> list[Run]:
    """All kept runs of a method on a set, by seed."""
    paths = (cache / method).glob(f"{set_name}-seed*.json")
    return sorted((Run(**json.loads(path.read_text())) for path in paths), key=lambda run: run.seed)


def latent_of(cache: Path, run: Run) -> np.ndarray:
    """The latent of all cells of the set, (cells, n_latent)."""
    with np.load(json_path(cache, run.method, run.set_name, run.seed).with_suffix(".npz")) as kept:
        return kept["latent"]
