"""What judges the tests that judge a fit: bounds that can fail, seeds that share no study, distances, budgets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import budgets, every_processor, studies
from tests.studies import Judge


def judged(*values: float, **bounds: float | None) -> dict:
    """The record of a judgement, made whether it holds or not."""
    records: list[dict] = []
    try:
        Judge(lambda _, value: records.append(value))("something", values, **bounds)
    except AssertionError as failure:
        records[0]["failure"] = str(failure)
    return records[0]


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ((0.5, 0.7), {"above": 0.6}),
        ((0.5, 0.7), {"below": 0.6}),
        ((0.9,), {"above": 0.1, "below": 0.8}),
        ((0.5, math.nan), {"above": 0.1}),
        ((math.inf,), {"above": 0.1, "below": 1}),
    ],
    ids=str,
)
def test_a_mean_that_is_not_within_its_bounds_fails_and_is_recorded(values: tuple[float, ...], bounds: dict):
    record = judged(*values, **bounds)
    assert "something" in record["failure"]
    assert record["values"] == pytest.approx(list(values), nan_ok=True)


def test_a_mean_within_its_bounds_passes():
    assert judged(0.5, 0.72, above=0.6, below=0.7) == {
        "what": "something",
        "values": [0.5, 0.72],
        "above": 0.6,
        "below": 0.7,
    }


def test_a_judgement_without_a_bound_is_an_error():
    with pytest.raises(AssertionError, match="something has no bound"):
        Judge(lambda *_: None)("something", [1.0])


def test_records_hold_plain_numbers():
    """pytest-xdist hands them from one process to another."""
    record = judged(np.float32(0.5), above=np.log(0.5), below=None)
    assert type(record["above"]) is float and [type(value) for value in record["values"]] == [float]


def test_runs_with_other_seeds_share_no_study(monkeypatch: pytest.MonkeyPatch):
    seen = []
    for seed in (0, 1, 2):
        monkeypatch.setattr(studies, "_first", 0)
        studies.number_from(seed)
        seen += studies.seeds(studies.APART)
    assert len(seen) == len(set(seen))


def test_the_distance_of_a_bound_is_in_standard_deviations_of_the_mean_of_one_run():
    found = [{"values": [1.0, 3.0], "above": 0.0, "below": 5.0}, {"values": [2.0, 2.0], "above": 0.0, "below": 5.0}]
    line, distance = every_processor.distance_of("x", found)
    scatter = np.std([1, 3, 2, 2], ddof=1) / np.sqrt(2)  # of a mean of two
    assert distance == pytest.approx(2 / scatter)  # the nearer of the two bounds
    assert "above 0, below 5" in line


def test_what_does_not_scatter_is_infinitely_far_and_a_single_number_at_no_known_distance():
    assert every_processor.distance_of("x", [{"values": [1.0, 1.0], "above": 0.5, "below": None}])[1] == math.inf
    assert math.isnan(every_processor.distance_of("x", [{"values": [1.0], "above": 0.5, "below": None}])[1])


def test_every_processor_has_the_plain_instructions():
    assert every_processor.instruction_sets()[0] == "default"


def test_the_page_has_a_place_for_the_table():
    page = every_processor.PAGE.read_text()
    assert page.index(every_processor.START) < page.index(every_processor.END)


@pytest.mark.parametrize(
    ("nodeid", "markers", "kind", "model"),
    [
        ("tests/test_contract.py::test_same_seed[linear_scvi]", (), "contract", "linear_scvi"),
        ("tests/test_contract_inputs.py::test_sizes[sizes0-scvi]", ("slow",), "contract", "scvi"),
        ("tests/tl/test_totalvi_recovery.py::test_counts", ("slow",), "slow", "totalvi"),
        ("tests/parity/test_scvi.py::test_every_term[zinb-gene]", ("parity",), "parity", "scvi"),
        ("tests/parity/test_poissonvi.py::test_x", ("parity", "slow"), "parity", "poissonvi"),
        ("tests/tl/test_scanvi.py::test_nan", (), None, "scanvi"),
        ("tests/test_house.py::test_laws", (), None, None),
    ],
)
def test_a_test_counts_towards_the_budget_of_its_model(
    nodeid: str, markers: tuple, kind: str | None, model: str | None
):
    assert (budgets.kind_of(nodeid, markers), budgets.model_of(nodeid)) == (kind, model)


def test_what_exceeds_its_budget_is_named():
    seconds, said = budgets.Seconds(), []
    seconds.spent = {("slow", "scvi"): 61.0, ("slow", "peakvi"): 59.0}

    class Terminal:
        def section(self, title: str) -> None:
            said.append(title)

        def write_line(self, line: str, **_: bool) -> None:
            said.append(line)

    seconds.pytest_terminal_summary(Terminal())
    assert [line for line in said if "over budget" in line] == ["over budget: slow of scvi took 61 s of 60"]
