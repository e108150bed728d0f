"""What a section of the speed benchmark found, kept as JSON until all sections are put together in a table."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from machine import device_name, processor, versions
from paired import Row, Target

DEFAULT_CACHE = Path(tempfile.gettempdir()) / "scvi_pp_speed"


@dataclass(frozen=True)
class Section:
    """Rows that were measured together, and all that has to be said about how."""

    name: str
    how: str
    rows: list[Row]
    threads: int
    device: str
    date: str
    command: str
    processor: str
    versions: dict[str, str]


def section_of(name: str, how: str, rows: list[Row], *, threads: int, device: str) -> Section:
    """A section measured now, here, by this command."""
    command = " ".join(["python", "tests/benchmarks/speed.py", *sys.argv[1:]])
    today = date.today().isoformat()
    return Section(name, how, rows, threads, device_name(device), today, command, processor(), versions())


def save(cache: Path, section: Section) -> None:
    """Keep a section in place of the one measured before."""
    path = cache / f"{section.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(asdict(section), indent=1))
    os.replace(unfinished, path)


def load(cache: Path, name: str) -> Section | None:
    """The kept section, if there is one."""
    path = cache / f"{name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    rows = [Row(**{**row, "target": row["target"] and Target(**row["target"])}) for row in kept.pop("rows")]
    return Section(rows=rows, **kept)
