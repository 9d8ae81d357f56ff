"""One process at a time owns a folder: a kernel lock that dies with it and is not inherited by workers."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.errors import ResourceError


@dataclass
class Lock:
    """A lock that is held on `path` through the open file `handle`."""

    path: Path
    handle: int

    def check(self) -> None:
        """Raises ResourceError when the experiment was moved or removed under the process that owns it."""
        try:
            same = os.path.samestat(os.stat(self.path), os.fstat(self.handle))
        except OSError:
            same = False
        if not same:
            raise ResourceError(f"{self.path.parent}: the experiment has vanished; bring it back and run again")


@contextmanager
def own(exp: Path, doing: str = "training") -> Iterator[Lock]:
    """Own the experiment folder `exp` (made if need be) for the length of the block.

    Raises ResourceError naming the host and the process that owns it, or the reason why nothing can be written there.
    """
    path = exp / ".lock"
    try:
        exp.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ResourceError(f"{path}: {error.strerror}; choose an --out that can be written") from error
    lock = Lock(path, handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResourceError(f"{exp}: {_owner(handle)} is {doing} here; wait for it, or end it") from error
        _close_in_children(lock)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield lock
    finally:
        lock.handle = -1
        os.close(handle)


def _owner(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 1000, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _close_in_children(lock: Lock) -> None:
    """A forked child shares the open file, and with it the lock: it would outlive the owner in its workers."""

    def close() -> None:
        if lock.handle >= 0:
            os.close(lock.handle)
            lock.handle = -1

    os.register_at_fork(after_in_child=close)
