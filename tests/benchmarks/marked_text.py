"""Text between two markers of a page: replaced by a program, while the rest of the page is written by hand."""

from __future__ import annotations

from pathlib import Path


def put_between_markers(page: Path, text: str, start: str, end: str) -> bool:
    """Replace what stands between the markers; False, with the page untouched, if it has none."""
    written = page.read_text() if page.exists() else ""
    if start not in written:
        return False
    before, rest = written.split(start, 1)
    if end not in rest:
        raise SystemExit(f"{page} has '{start}' but no '{end}' after it")
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")
    return True


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])
