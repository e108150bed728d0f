"""`tl.scvi` against scvi-tools on real sets: held-out ELBO, scIB scores, seconds.

    python tests/benchmarks/fidelity.py --peer      # scvi-tools; an hour or two on one core, kept in --cache
    python tests/benchmarks/fidelity.py --ours      # scvi_pp; minutes, run anew each time
    python tests/benchmarks/fidelity.py --table     # scores both and writes the tables into docs/benchmarks.md

Needs the extras `test` and `parity`, scib-metrics, and the real sets: `--data`, or the variable SCVI_PP_REAL_DATA.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import runs
from real_sets import REAL_SETS, default_data_dir, prepare

DOCS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def main() -> None:
    """Run the parts asked for; all three when none is named."""
    asked = parse_arguments()
    every_part = not (asked.peer or asked.ours or asked.table)
    if asked.peer or every_part:
        run_peer(asked)
    if asked.ours or every_part:
        run_ours(asked)
    if asked.table or every_part:
        from report import write_report

        print(write_report(asked.docs, asked.cache, asked.data))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="fit scvi-tools where the cache has no run yet")
    parser.add_argument("--ours", action="store_true", help="fit scvi_pp, replacing kept runs")
    parser.add_argument("--table", action="store_true", help="score kept runs and write the docs page")
    parser.add_argument("--sets", nargs="+", choices=list(REAL_SETS), default=list(REAL_SETS))
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of 0 1 2 (peer on pbmc5: 0)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=default_data_dir(), help="folder of the .h5ad files")
    parser.add_argument("--cache", type=Path, default=runs.DEFAULT_CACHE, help="where runs are kept (not committed)")
    parser.add_argument("--docs", type=Path, default=DOCS_PAGE, help="page that gets the tables")
    return parser.parse_args()


def run_peer(asked: argparse.Namespace) -> None:
    """Fit scvi-tools on every set and seed that the cache lacks."""
    from peer import METHOD, fit_peer

    for name in asked.sets:
        for seed in asked.seeds or REAL_SETS[name].seeds:
            if not runs.json_path(asked.cache, METHOD, name, seed).exists():
                run, latent = fit_peer(prepare(name, asked.data), name, seed, threads=asked.threads)
                runs.save(asked.cache, run, latent)
                tell(run)


def run_ours(asked: argparse.Namespace) -> None:
    """Fit scvi_pp on every set and seed."""
    from ours import fit_ours

    for name in asked.sets:
        for seed in asked.seeds or (0, 1, 2):
            run, latent = fit_ours(prepare(name, asked.data), name, seed, threads=asked.threads)
            runs.save(asked.cache, run, latent)
            tell(run)


def tell(run: runs.Run) -> None:
    """One line about a finished run."""
    print(
        f"{run.method} {run.set_name} seed {run.seed}: held-out ELBO {run.elbo:.2f}, best {run.elbo_best:.2f} at epoch "
        f"{run.best_epoch} of {run.epochs}, {run.seconds:.0f} s ({run.cpu_seconds:.0f} s of one core)",
        flush=True,
    )


if __name__ == "__main__":
    main()
