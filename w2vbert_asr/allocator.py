"""What glibc does with freed memory. A training keeps it: every step would fault it in again.

A loader process, which is a fork, gives it back, and lets alone what its parent has left free.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEEP = {
    "MALLOC_TRIM_THRESHOLD_": (_M_TRIM_THRESHOLD, 1 << 30),
    "MALLOC_TOP_PAD_": (_M_TOP_PAD, 64 << 20),
    "MALLOC_MMAP_THRESHOLD_": (_M_MMAP_THRESHOLD, 1 << 30),
}
_LARGE = 128 << 10  # bytes; glibc's own default for all three
_GIVE_BACK = {name: (code, _LARGE) for name, (code, _) in _KEEP.items()}


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for handing memory back (see mallopt(3)); True if all could be set.

    A variable that the user has set in the environment is respected. Does nothing where the C library is not glibc.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    libc = _glibc()
    return libc is not None and _set(libc, _KEEP)


def leave_inherited_memory() -> bool:
    """In a forked process: hand large blocks back when they are freed, and put none where the parent has left room.

    There the kernel copies every page that is written to: a loader process would have copied 100 MB after a while. So
    that room is taken, and never touched. True if that could be done.
    """
    libc = _glibc()
    if libc is None or not _set(libc, _GIVE_BACK):
        return False
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    size = 128 << 20
    while size >= _LARGE:
        end = libc.sbrk(0)
        place = libc.malloc(ctypes.c_size_t(size - 64))  # 64: for the header, so that 128 KB fit into 128 KB
        if place is None or place + size > end:  # new memory
            libc.free(ctypes.c_void_p(place))
            size //= 2
    return True


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") else None


def _set(libc: ctypes.CDLL, settings: Mapping[str, tuple[int, int]]) -> bool:
    chosen = [setting for name, setting in settings.items() if name not in os.environ]
    taken = [bool(libc.mallopt(code, value)) for code, value in chosen]
    return all(taken)
