"""SIGTERM, SIGUSR1 and Ctrl-C ask a run to save its state and to stop; a second signal ends it at once.

A SIGTERM soon after another is the same one: a scheduler sends it to every process, and torchrun passes it on again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_ECHO_SECONDS = 2.0
_CAUGHT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass
class StopRequest:
    """The signal that asked for a stop, 0 while there was none, and when it came (monotonic seconds)."""

    signal: int = 0
    when: float = 0.0


def exit_code(number: int) -> int:
    """130 for Ctrl-C, else 75: preempted, run me again."""
    return 130 if number == signal.SIGINT else 75


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Catch the signals for the length of the block (in the main thread; elsewhere Python cannot)."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not request.signal:
            request.signal, request.when = number, now
        elif not (request.signal == number == signal.SIGTERM and now - request.when < _ECHO_SECONDS):
            os._exit(exit_code(number))

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, handle) for number in _CAUGHT}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
