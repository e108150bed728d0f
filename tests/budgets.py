"""How many seconds the tests of each model may take, and the lines in which a run says what took longer.

Nothing fails for being slow, since machines differ. What exceeds its budget is named at the end of the run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

BUDGETS = {"contract": 15, "slow": 60, "parity": 20}  # seconds, of each model
MODELS = sorted(path.stem for path in (Path(__file__).parents[1] / "scvi_pp" / "_backend" / "models").glob("[a-z]*.py"))


def kind_of(nodeid: str, markers: object) -> str | None:
    """Which budget a test counts towards."""
    if Path(nodeid.split("::")[0]).name.startswith("test_contract"):
        return "contract"
    return next((kind for kind in ("parity", "slow") if kind in markers), None)


def model_of(nodeid: str) -> str | None:
    """The model in the name of the file or of the test, else in its parameters; longer names first."""
    file, _, test = nodeid.partition("::")
    for text in (Path(file).stem, *reversed(test.split("[", 1))):
        named = [name for name in MODELS if re.search(rf"(?<![a-z]){name}(?![a-z])", text)]
        if named:
            return max(named, key=len)
    return None


class Seconds:
    """Adds up the seconds of every test, and tells what exceeds its budget."""

    def __init__(self) -> None:
        self.spent: dict[tuple[str, str], float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kind, model = kind_of(report.nodeid, report.keywords), model_of(report.nodeid)
        if kind and model:
            self.spent[kind, model] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.spent:
            return
        terminalreporter.section("seconds of each model")
        for kind, budget in BUDGETS.items():
            of_models = {model: spent for (what, model), spent in self.spent.items() if what == kind}
            if of_models:
                listed = ", ".join(f"{model} {spent:.0f}" for model, spent in sorted(of_models.items()))
                terminalreporter.write_line(f"{kind} (budget {budget}): {listed}")
            for model, spent in of_models.items():
                if spent > budget:
                    line = f"over budget: {kind} of {model} took {spent:.0f} s of {budget}"
                    terminalreporter.write_line(line, yellow=True)
