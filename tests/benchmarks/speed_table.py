"""The speed part of docs/benchmarks.md, from kept sections."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from marked_text import markdown, put_between_markers
from paired import Row, readable
from speed_records import Section

START, END = "<!-- speed: start -->", "<!-- speed: end -->"
HEADER = ["what", "scvi-tools", "scvi_pp", "ratio", "min to max (pairs)", "target", "result"]
HOW = (
    "Both packages are measured in the same run and in turn (scvi-tools, scvi_pp, scvi-tools, scvi_pp, ...), so that "
    "whatever else slows the machine down hits neighbours. The first turn of each is not counted, and figures are medians "
    "over turns, where nothing else is said. *Ratio* is how many times better scvi_pp is (above 1 is in its favour, whether the quantity is a time "
    "or a rate): taken within each pair of neighbours, then the median over pairs; beside it the smallest and the "
    "largest, and the number of pairs. Of ELBOs it is the difference. A target with *x* is for the ratio, one with a unit for scvi_pp's own figure. "
    "Rows without a target are for information."
)


def write_speed(page: Path, sections: list[Section]) -> str:
    """Put the sections between the markers of the page; return the text."""
    text = speed_text(sections)
    if not put_between_markers(page, text, START, END):
        print(f"{page} is as it was: it has no '{START}' and '{END}' to put this between.\n")
    return text


def speed_text(sections: list[Section]) -> str:
    """Explanations, then one table."""
    rows = [cells for section in sections for cells in [heading(section), *map(row_cells, section.rows)]]
    explained = "\n".join(f"- **{section.name}**: {section.how} {provenance(section)}" for section in sections)
    return f"## Speed and memory\n\n{HOW}\n\n{explained}\n\n{markdown(HEADER, rows)}\n\n{installed(sections)}"


def heading(section: Section) -> list[str]:
    """A line of the table that names the section."""
    return [f"**{section.name}**", *[""] * (len(HEADER) - 1)]


def row_cells(row: Row) -> list[str]:
    """One line of the table."""
    return [
        row.what,
        figure(row, row.peer) if row.peer else "not run",
        figure(row, row.ours),
        times(row, row.ratio) if row.ratios else "",
        f"{times(row, min(row.ratios))} to {times(row, max(row.ratios))} ({len(row.ratios)})" if row.ratios else "",
        target(row),
        "" if row.target is None else "beaten" if row.is_beaten else "**missed**",
    ]


def figure(row: Row, values: list[float]) -> str:
    """The median with its unit; to two places where differences count."""
    middle = f"{median(values):.2f}" if row.better == "gain" else readable(median(values))
    return middle if middle == "never" else f"{middle} {row.unit}"


def times(row: Row, ratio: float) -> str:
    """`8.3x`; a difference for a gain."""
    return f"{ratio:+.2f}" if row.better == "gain" else f"{readable(ratio)}x"


def target(row: Row) -> str:
    """The bound in words."""
    if row.target is None:
        return ""
    if row.target.of == "finishes":
        return "finishes"
    if row.target.of == "ratio":
        return f"at least {times(row, row.target.bound)}"
    side = "at most" if row.better == "lower" else "at least"
    return f"{side} {readable(row.target.bound)} {row.unit}"


def provenance(section: Section) -> str:
    """When, where and by what."""
    return (
        f"*{section.date}, {section.processor}, {section.threads} thread(s), {section.device}, scvi_pp "
        f"{section.versions['scvi_pp']}:* `{section.command}`"
    )


def installed(sections: list[Section]) -> str:
    """Versions of the rest, with all that were used if sections differ."""
    found: dict[str, set[str]] = {}
    for section in sections:
        for name, number in section.versions.items():
            found.setdefault(name, set()).add(number)
    listed = (f"{name} {' and '.join(sorted(numbers))}" for name, numbers in found.items() if name != "scvi_pp")
    return f"With {', '.join(listed)}."
