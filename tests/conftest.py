"""What all tests share: quiet settings, the real data, and which tests need no torch."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from tests import budgets, studies

TESTS = Path(__file__).parent

# Tests of what lives above the wall: they pass where torch is not installed (`pytest --above-wall`).
ABOVE_THE_WALL = ("data", "datasets", "pp", "test_house.py", "test_logging.py", "test_settings.py")

# One verb for each kernel: what `--kernels` runs the promises about numbers of.
KERNELS_OF = {
    "scvi": "zero-inflated negative binomial, packed counts, softmax heads",
    "linear_scvi": "negative binomial",
    "peakvi": "Bernoulli",
    "poissonvi": "Poisson",
    "totalvi": "mixture of negative binomials",
}

REAL_DATA = os.environ.get("SCVI_PP_REAL_DATA")

os.environ.setdefault("MPLBACKEND", "Agg")  # figures are drawn, never shown
if "PYTEST_XDIST_WORKER" in os.environ:
    # one of several processes: threads of all of them would wait for each other at every small operation of torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest.register_assert_rewrite("tests.contract")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--above-wall", action="store_true", help="only the tests that need no torch, and without torch")
    parser.addoption(
        "--kernels",
        choices=("compiled", "reference"),
        help="run the promises about numbers with this form of the kernels, on one verb for each kernel; "
        "by default a small fit does not wait for a compiler",
    )
    parser.addoption("--seed", type=int, default=0, help="which simulated studies the statistical tests judge")
    parser.addoption(
        "--judged", type=Path, metavar="FILE", help="append what the statistical tests judged, as JSON lines"
    )


def pytest_configure(config: pytest.Config) -> None:
    studies.number_from(config.getoption("--seed"))
    if not hasattr(config, "workerinput"):  # the process that the workers report to
        config.pluginmanager.register(budgets.Seconds())
        if config.getoption("--judged"):
            config.pluginmanager.register(KeepJudgements(config.getoption("--judged")))
    if config.getoption("--above-wall") and importlib.util.find_spec("torch") is not None:
        raise pytest.UsageError("--above-wall shows that nothing above the wall needs torch: run it without torch.")


def pytest_report_header(config: pytest.Config) -> list[str]:
    wall = [f"above the wall: only {', '.join(ABOVE_THE_WALL)}"] if config.getoption("--above-wall") else []
    of_studies = f"seed of the statistical tests: {config.getoption('--seed')}"
    return [*wall, of_studies, f"real data: {REAL_DATA or 'none, SCVI_PP_REAL_DATA is not set'}"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what cannot be imported here: all below the wall without torch, parity without the reference."""
    if collection_path == TESTS or not collection_path.is_relative_to(TESTS):
        return None
    place = collection_path.relative_to(TESTS).parts[0]
    if config.getoption("--above-wall") and place not in ABOVE_THE_WALL:
        return True
    if place == "parity" and importlib.util.find_spec("scvi") is None:
        return True  # `pytest -m parity` then finds no test, which is a failure
    return None


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--kernels"):
        chosen = [_depends_on_the_kernels(item) for item in items]
        config.hook.pytest_deselected(items=[item for item, is_one in zip(items, chosen, strict=True) if not is_one])
        items[:] = [item for item, is_one in zip(items, chosen, strict=True) if is_one]
    for item in items:
        if item.path.is_relative_to(TESTS / "parity"):
            item.add_marker(pytest.mark.parity)
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)
        if "judge" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.statistical)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # or one process ends long after the other


def _depends_on_the_kernels(item: pytest.Item) -> bool:
    """A promise about numbers, kept by the verb that stands for its kernels: others run the same machine code."""
    verb = item.callspec.params.get("verb") if hasattr(item, "callspec") else None
    return item.get_closest_marker("every_form") is not None and str(verb) in KERNELS_OF


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object):
    """Hand whole groups of tests that share fits to one process: those of a verb's contract, else those of a file.

    `--dist loadgroup` would do that by a mark, but pytest-xdist 3.8 does not see the marks of pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class BySharedFits(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            kind, model = budgets.kind_of(nodeid, ()), budgets.model_of(nodeid)
            return f"{kind} of {model}" if kind and model else nodeid.split("::")[0]

    return BySharedFits(config, log)


class KeepJudgements:
    """Appends each judgement to a file, with the test that made it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        judged = [value for name, value in report.user_properties if name == "judged"]
        if report.when == "call" and judged:
            with self.path.open("a") as file:
                file.writelines(json.dumps({"test": report.nodeid, **value}) + "\n" for value in judged)


@pytest.fixture
def judge(record_property) -> studies.Judge:
    """Assert that means over simulated studies lie within their bounds; marks the test as `statistical`."""
    return studies.Judge(record_property)


@pytest.fixture(autouse=True)
def _settings_as_they_come(request: pytest.FixtureRequest):
    """No test sees the settings of another."""
    from scvi_pp import settings

    settings.reset()
    if request.node.get_closest_marker("statistical"):
        settings.seed = studies.seeds(1)[0]  # of fits that name no seed
    yield
    settings.reset()


@pytest.fixture(autouse=True)
def _kernels_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Nothing without `--kernels`."""
    asked = request.config.getoption("--kernels")
    if asked is None:
        yield
        return
    from scvi_pp._backend import kernels

    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    with kernels.use("auto" if asked == "compiled" else "reference"):
        yield


@pytest.fixture
def quiet(_settings_as_they_come):
    """Settings under which nothing is logged and no bar is drawn."""
    from scvi_pp import settings

    with settings.override(verbosity=0, progress=False):
        yield settings


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; a test that asks for it is marked `real_data` and skipped where there is none."""
    if not REAL_DATA:
        pytest.skip("no real data: set SCVI_PP_REAL_DATA to a folder of data sets")
    folder = Path(REAL_DATA)
    assert folder.is_dir(), f"SCVI_PP_REAL_DATA={REAL_DATA} is not a folder"
    return folder
