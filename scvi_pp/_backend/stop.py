"""The stop button: the first interrupt ends training with what was reached, the second ends the call."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


class StopButton:
    """Inside the block SIGINT (Ctrl-C, the notebook's stop button) sets `pressed` instead of raising.

    Signals reach the main thread only; in any other thread the button stays up.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._installed = False
        self._previous: Any = None

    def __enter__(self) -> StopButton:
        if threading.current_thread() is threading.main_thread():
            # a handler that was not set from Python cannot be put back: Python's own takes its place
            previous = signal.signal(signal.SIGINT, self._press)
            self._previous = signal.default_int_handler if previous is None else previous
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)

    def _press(self, number: int, frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
