"""For what "the same seed gives the same bits" holds: instruction sets, numbers of threads, processes.

    python tests/benchmarks/same_bits.py

Fits each model in fresh processes that differ in one thing, and compares the latent position with that of the first: equal
to the bit, or the correlation of distances between cells, which a fit with other rounding and one with another seed change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from marked_text import markdown

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
from every_processor import instruction_sets  # noqa: E402 - beside this folder

FIT = """
import sys
import numpy as np
import scvi_pp as svp
verb, n_obs, n_vars, max_epochs, seed, out = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
svp.settings.verbosity = 0
adata = svp.datasets.simulate_rna(n_obs, n_vars, rng=0)
getattr(svp.tl, verb)(adata, batch_key="batch", denoise=False, device="cpu", max_epochs=max_epochs, rng=seed)
np.save(out, adata.obsm[f"X_{verb}"])
"""
# cells, features and epochs: too small for machine code of numba to be worth its compiler, and large enough
SIZES = {"small (200 x 100)": (200, 100, 10), "large (3,000 x 2,000)": (3000, 2000, 12)}
VERBS = ("scvi", "peakvi")


def main() -> None:
    """Print a table: what differs from the first fit, and what comes out."""
    best = instruction_sets()[-1]
    first = {"ATEN_CPU_CAPABILITY": best, "OMP_NUM_THREADS": "2"}
    variants = {"another process": first, "one thread instead of two": {**first, "OMP_NUM_THREADS": "1"}}
    variants |= {
        f"{name} instead of {best}": {**first, "ATEN_CPU_CAPABILITY": name} for name in instruction_sets()[:-1]
    }
    variants["numba for any processor"] = {**first, "NUMBA_CPU_NAME": "generic"}
    rows = {what: [what] for what in (*variants, "another seed")}
    for verb in VERBS:
        for size in SIZES.values():
            expected = latent(verb, size, first)
            for what, environment in variants.items():
                rows[what].append(told(latent(verb, size, environment), expected))
            rows["another seed"].append(told(latent(verb, size, first, seed=1), expected))
    print(markdown(["", *(f"{verb}, {size}" for verb in VERBS for size in SIZES)], list(rows.values())))


def latent(verb: str, size: tuple[int, int, int], environment: dict[str, str], seed: int = 0) -> np.ndarray:
    """The latent position from a fit in a process of its own."""
    out = Path(os.environ.get("TMPDIR", "/tmp")) / f"same_bits_{os.getpid()}.npy"
    command = [sys.executable, "-c", FIT, verb, *map(str, size), str(seed), str(out)]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    found = np.load(out)
    out.unlink()
    return found


def told(found: np.ndarray, expected: np.ndarray) -> str:
    """The same bits, or how alike the distances between cells are."""
    if np.array_equal(found, expected):
        return "the same bits"
    rows = np.random.default_rng(0).choice(len(found), 200, replace=False)
    ours, theirs = (np.linalg.norm(each[rows, None] - each[rows], axis=2).ravel() for each in (found, expected))
    return f"r = {np.corrcoef(ours, theirs)[0, 1]:.4f}"


if __name__ == "__main__":
    main()
