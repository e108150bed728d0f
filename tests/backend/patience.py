"""How long a test waits for what should have happened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

LONG_ENOUGH = 20.0  # seconds after which something is taken to wait for ever


def in_time(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises, in a thread of its own: a failure rather than a test run that stands still."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = work()
        except BaseException as error:  # noqa: BLE001 - raised below
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG_ENOUGH)
    assert not thread.is_alive(), "it waits for ever"
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
