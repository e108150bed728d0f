"""The tests that judge a fit, on every instruction set that this processor has, over several seeds.

    python tests/every_processor.py               # statistical tests, each instruction set, seeds 0 to 3
    python tests/every_processor.py --all         # the whole default suite instead, seed 0
    python tests/every_processor.py --write-docs  # and put the table into docs/contributing.md

A fit rounds differently with other instructions, and another seed is another study: neither may decide whether a test
passes. PyTorch is held to an instruction set by ATEN_CPU_CAPABILITY, the machine code of numba by NUMBA_CPU_NAME.

Every judged number (tests/studies.py) is then held against its bound: the distance of their means over all runs, in
standard deviations of the mean of one run. It fails where a test fails, or where a bound is nearer than four of these.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "contributing.md"
START, END = "<!-- every processor -->", "<!-- end of every processor -->"
GENERIC = "generic numba"
NEAREST = 4  # standard deviations: of a hundred bounds that near, one run in three hundred fails by chance


@dataclass(frozen=True)
class Run:
    """One run of the tests: how it was called, and how it ended."""

    instructions: str
    seed: int
    outcome: str  # pytest's closing line, without its frame
    failed: tuple[str, ...]
    seconds: float
    succeeded: bool


def main() -> None:
    """Run what was asked for, print the tables, and exit with 1 where something does not hold."""
    asked = arguments()
    with tempfile.TemporaryDirectory() as folder:
        judged = Path(folder) / "judged.jsonl"
        runs = [run(*combination, judged, everything=asked.all) for combination in combinations(asked)]
        judgements = [json.loads(line) for line in judged.read_text().splitlines()] if judged.exists() else []
    distances = distances_of(judgements)
    print(table_of_runs(runs), *(line for line, _ in distances.values()), sep="\n")
    near = [what for what, (_, distance) in distances.items() if not distance >= NEAREST]
    print(*(f"too near its bound: {what}" for what in near), sep="\n")
    if asked.write_docs:
        write_into(PAGE, table_of_runs(runs))
    sys.exit(any(not each.succeeded for each in runs) or bool(near and len(asked.seeds) > 1))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the default suite, not the statistical tests alone")
    parser.add_argument("--seeds", type=int, nargs="+", help="0 to 3 without --all, else 0")
    parser.add_argument(
        "--only", nargs="+", choices=[*instruction_sets(), GENERIC], help="some of the instruction sets"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"put the table of runs into {PAGE.name}")
    asked = parser.parse_args()
    asked.seeds = asked.seeds or ([0] if asked.all else [0, 1, 2, 3])
    return asked


def instruction_sets() -> list[str]:
    """Values of ATEN_CPU_CAPABILITY that this processor can run, the plainest first."""
    facts = Path("/proc/cpuinfo")
    flags = set(re.findall(r"[\w.]+", facts.read_text())) if facts.exists() else set()
    has = {"default": True, "avx2": {"avx2", "fma"} <= flags, "avx512": {"avx512f", "avx512bw", "avx512vl"} <= flags}
    return [name for name, there in has.items() if there]


def combinations(asked: argparse.Namespace) -> list[tuple[str, int]]:
    """Every instruction set with every seed, and once the machine code of any processor."""
    every = [(name, seed) for name in reversed(instruction_sets()) for seed in asked.seeds] + [
        (GENERIC, asked.seeds[0])
    ]
    return [(name, seed) for name, seed in every if not asked.only or name in asked.only]


def run(instructions: str, seed: int, judged: Path, *, everything: bool) -> Run:
    """One run of pytest in a process of its own."""
    held_to = {"NUMBA_CPU_NAME": "generic"} if instructions == GENERIC else {"ATEN_CPU_CAPABILITY": instructions}
    chosen = [] if everything else ["-m", "statistical"]
    command = [sys.executable, "-m", "pytest", "-q", "--no-loadscope-reorder", *chosen]
    command += [f"--seed={seed}", f"--judged={judged}"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **held_to}, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    failed = tuple(line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR ")))
    outcome = lines[-1].strip("= ").split(" in ")[0]
    found = Run(instructions, seed, outcome, failed, time.perf_counter() - began, done.returncode == 0)
    print(f"{instructions}, seed {seed}: {outcome}, {found.seconds:.0f} s", *failed, sep="\n  ", flush=True)
    return found


def distances_of(judgements: list[dict[str, Any]]) -> dict[str, tuple[str, float]]:
    """Of each judged number a line to print, and how many standard deviations its nearest bound is away."""
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in judgements:
        by_name[each["what"]].append(each)
    return {what: distance_of(what, found) for what, found in by_name.items()}


def distance_of(what: str, found: list[dict[str, Any]]) -> tuple[str, float]:
    """The mean over all studies, and the distance of its bounds in standard deviations of the mean of one run."""
    values = np.concatenate([each["values"] for each in found])
    n = len(found[0]["values"])
    scatter = float(values.std(ddof=1) / np.sqrt(n)) if len(values) > 1 else float("nan")
    bounds = {name: found[-1][name] for name in ("above", "below") if found[-1][name] is not None}
    apart = [(values.mean() - bound) * (1 if name == "above" else -1) for name, bound in bounds.items()]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = float(np.min(apart) / np.float64(scatter))
    told = ", ".join(f"{name} {bound:g}" for name, bound in bounds.items())
    line = (
        f"{what}: {values.mean():.3f}, the mean of {n} scatters by {scatter:.3f}; {told}: {distance:.0f} of these away"
    )
    return line, distance


def table_of_runs(runs: list[Run]) -> str:
    """Instruction sets against seeds, as markdown."""
    seeds = sorted({each.seed for each in runs})
    rows = [["instructions", *(f"seed {seed}" for seed in seeds)]]
    rows.append(["---"] * len(rows[0]))
    for name in dict.fromkeys(each.instructions for each in runs):
        by_seed = {each.seed: each for each in runs if each.instructions == name}
        rows.append([name, *(by_seed[seed].outcome if seed in by_seed else "" for seed in seeds)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def write_into(page: Path, table: str) -> None:
    """Replace what stands between the markers."""
    before, rest = page.read_text().split(START)
    page.write_text(f"{before}{START}\n\n{table}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
