"""Faults on request, for the tests: FAULT=<point>:<action>[:<hit>] in the environment, nothing without it.

A point is a place in the input and output layer, such as `checkpoint.mid_write`; the action happens at its first hit,
or at the one that is given: `kill`, `term`, `int` and `usr1` send this process the signal, `full` is a full disk.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT, "usr1": signal.SIGUSR1}
_hits: Counter[str] = Counter()


def fault(point: str) -> None:
    """Do what FAULT asks for at `point`; raises OSError (ENOSPC) for `full`."""
    asked = os.environ.get("FAULT")
    if not asked:
        return
    name, action, *hit = asked.split(":")
    if name != point:
        return
    _hits[point] += 1
    if _hits[point] != int(hit[0] if hit else 1):
        return
    if action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), point)
    os.kill(os.getpid(), _SIGNALS[action])
