"""What scvi_pp tells its user: one logger, to stderr, as loud as `settings.verbosity`."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from scvi_pp._settings import settings

__all__ = ["debug", "info", "logger", "warning"]

LOWEST_LEVEL = {0: logging.CRITICAL + 1, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}  # by verbosity


class _Verbosity(logging.Filter):
    """Lets through what `settings.verbosity` asks for at the moment of the call."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= LOWEST_LEVEL[settings.verbosity]


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is now: notebooks and tests replace it after the import."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:  # Windows without a console has none
            self.stream = sys.stderr
            super().emit(record)


def _make_logger() -> logging.Logger:
    made = logging.getLogger("scvi_pp")
    made.setLevel(logging.DEBUG)
    made.propagate = False  # an application that configures the root logger would print everything twice
    if not made.handlers:  # a second import in the same process
        made.addFilter(_Verbosity())
        made.addHandler(_CurrentStderr())
    return made


logger = _make_logger()


def debug(msg: str) -> None:
    """Log a detail, shown at verbosity 3."""
    logger.debug("%s", msg)


def info(msg: str) -> None:
    """Log what was done, shown from verbosity 2 on, the default."""
    logger.info("%s", msg)


def warning(msg: str) -> None:
    """Log what the user should look at, shown from verbosity 1 on."""
    logger.warning("%s", msg)
