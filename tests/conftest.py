"""What all tests share: quiet settings, the real data, and which tests need no torch."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Tests of what lives above the wall: they pass where torch is not installed (`pytest --above-wall`).
ABOVE_THE_WALL = ("data", "datasets", "pp", "test_errors.py", "test_house.py", "test_logging.py", "test_settings.py")

REAL_DATA = Path(os.environ.get("SCVI_PP_REAL_DATA", TESTS.parent.parent / "shared" / "data"))

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
        help="run every fit with this form of the kernels; by default a small fit does not wait for a compiler",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--above-wall") and importlib.util.find_spec("torch") is not None:
        raise pytest.UsageError("--above-wall shows that nothing above the wall needs torch: run it without torch.")


def pytest_report_header(config: pytest.Config) -> list[str]:
    wall = [f"above the wall: only {', '.join(ABOVE_THE_WALL)}"] if config.getoption("--above-wall") else []
    return [*wall, f"real data: {REAL_DATA if REAL_DATA.is_dir() else 'none, tests that need it are skipped'}"]


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS / "parity"):
            item.add_marker(pytest.mark.parity)
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)


@pytest.fixture(autouse=True)
def _settings_as_they_come():
    """No test sees the settings of another."""
    from scvi_pp import settings

    settings.reset()
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
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}: set SCVI_PP_REAL_DATA")
    return REAL_DATA
