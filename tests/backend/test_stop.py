"""The first interrupt ends training with what was reached, the second ends the call."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from scvi_pp._backend.stop import StopButton


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupt_presses_the_button_and_raises_nothing():
    with StopButton() as button:
        assert not button.pressed
        interrupt()
        assert button.pressed


def test_the_second_interrupt_raises():
    with pytest.raises(KeyboardInterrupt), StopButton():
        interrupt()
        interrupt()


def _handler(number: int, frame: object) -> None:
    raise AssertionError("not during this test")


PREVIOUS = {
    "python's": signal.default_int_handler,
    "ignored": signal.SIG_IGN,
    "the system's": signal.SIG_DFL,
    "one's own": _handler,
}


@pytest.mark.parametrize("previous", PREVIOUS.values(), ids=PREVIOUS)
@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_the_previous_handler_is_back_afterwards(previous: object, error: type[BaseException] | None):
    before = signal.signal(signal.SIGINT, previous)
    try:
        try:
            with StopButton():
                if error is not None:
                    raise error
        except BaseException as raised:  # noqa: BLE001 - the one above
            assert type(raised) is error
        assert signal.getsignal(signal.SIGINT) is previous
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_the_button_stays_up():
    pressed = []

    def work() -> None:
        with StopButton() as button:
            pressed.append(button.pressed)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert pressed == [False]
    assert signal.getsignal(signal.SIGINT) is before
