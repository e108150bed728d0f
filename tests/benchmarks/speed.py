"""`scvi_pp` against scvi-tools, in turn: kernels, training, quality, inference, memory, a million, chromatin, and more.

    python tests/benchmarks/speed.py                              # everything, then the table in docs/benchmarks.md
    python tests/benchmarks/speed.py --only kernels training      # some of it; the rest of the table from kept results
    python tests/benchmarks/speed.py --only                       # the table alone, from kept results
    python tests/benchmarks/speed.py --only million --cells 50000 # smaller
    python tests/benchmarks/speed.py --scale 0.05 --repeats 1     # to see that it runs: kept apart, written nowhere

Needs the extra `parity`; `quality` also the real sets (`--data`, or the variable SCVI_PP_REAL_DATA) and the kept runs of
`fidelity.py --peer`. Nothing else should run on the machine. Each section runs in a process of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import speed_records
from fresh_process import in_fresh_process
from machine import REPOSITORY, announce_threads
from speed_table import speed_text, write_speed

SECTIONS = (
    "kernels",
    "training",
    "quality",
    "inference",
    "memory",
    "million",
    "chromatin",
    "imputation",
    "differential",
)


def main() -> None:
    """Measure the sections asked for, then put all kept ones into the table."""
    asked = parse_arguments()
    announce_threads(asked.threads)
    is_trial = asked.scale != 1
    cache = asked.cache / f"scale-{asked.scale:g}" if is_trial else asked.cache
    for name in asked.only:
        try:
            speed_records.save(cache, in_fresh_process(f"speed_{name}", "measure", asked))
        except SystemExit as refusal:  # something that it needs is not there: the others may run
            print(f"{name} was not measured: {refusal}", flush=True)
    sections = [kept for name in SECTIONS if (kept := speed_records.load(cache, name))]
    if not sections:
        raise SystemExit(f"{cache} has no results yet: name sections after --only")
    print(speed_text(sections) if is_trial else write_speed(asked.docs, sections))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS, help="sections to measure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side that are counted")
    parser.add_argument("--device", default="cpu", help="'cuda' for training, quality, inference and million")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the cells, to try the programs out")
    parser.add_argument("--cells", type=int, help="of the section million, instead of a million")
    parser.add_argument("--docs", type=Path, default=REPOSITORY / "docs" / "benchmarks.md", help="page with the table")
    parser.add_argument("--cache", type=Path, default=speed_records.DEFAULT_CACHE, help="where results are kept")
    parser.add_argument("--runs", type=Path, help="where fidelity.py keeps its runs, if not where it does by default")
    parser.add_argument("--data", type=Path, help="folder of the real sets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
