"""What is logged, where to, and how loud."""

from __future__ import annotations

import logging

import pytest

from scvi_pp import _logging, settings


def log_everything() -> None:
    _logging.debug("a detail")
    _logging.info("50% done")
    _logging.warning("look here")


@pytest.mark.parametrize(
    ("verbosity", "said"),
    [
        (0, []),
        (1, ["look here"]),
        (2, ["50% done", "look here"]),
        (3, ["a detail", "50% done", "look here"]),
    ],
)
def test_verbosity_decides_what_is_said_on_stderr(verbosity: int, said: list[str], capsys):
    settings.verbosity = verbosity
    log_everything()
    captured = capsys.readouterr()
    assert captured.err.splitlines() == said
    assert captured.out == ""


def test_nothing_is_said_twice_where_the_root_logger_is_configured(capsys):
    root, handler = logging.getLogger(), logging.StreamHandler()
    root.addHandler(handler)
    try:
        _logging.warning("once")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err.splitlines() == ["once"]


def test_the_logger_itself_obeys_verbosity_too(capsys):
    settings.verbosity = 0
    _logging.logger.critical("quiet")
    assert capsys.readouterr().err == ""


def test_missing_stderr_is_no_error(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    _logging.warning("nobody listens")
