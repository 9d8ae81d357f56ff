"""Keep freed memory in the process: glibc returns large blocks otherwise, and every step faults them in again."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (_M_TRIM_THRESHOLD, 1 << 30),
    "MALLOC_TOP_PAD_": (_M_TOP_PAD, 64 << 20),
    "MALLOC_MMAP_THRESHOLD_": (_M_MMAP_THRESHOLD, 1 << 30),
}


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for handing memory back (see mallopt(3)); True if all could be set.

    A variable that the user has set in the environment is respected. Does nothing where the C library is not glibc.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(bool(mallopt(code, value)) for name, (code, value) in _SETTINGS.items() if name not in os.environ)
