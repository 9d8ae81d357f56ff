"""Arrays in a file that is memory-mapped, so that all processes of a machine share them: a copy of what can be made.

The layout is that of safetensors, with a key (what it was made from) and a checksum of everything in its header.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from w2vbert_asr.data.files import atomic_write

Array = npt.NDArray[Any]
_DTYPES = {name: np.dtype(code) for name, code in {"I32": "<i4", "I64": "<i8", "F64": "<f8", "U8": "u1"}.items()}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 1 << 16
_log = logging.getLogger(__name__)


def cached(path: Path, key: str, make: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """The one-dimensional arrays of `path`, read-only; made and written first unless they are there, whole, with `key`.

    Of several processes one makes them and the others wait. Where nothing can be written they stay in memory, which
    the log says.
    """
    found = map_arrays(path, key)
    if found is not None:
        return found
    with ExitStack() as stack:
        trouble = _lock(path, stack)
        found = None if trouble else map_arrays(path, key)
        if found is not None:
            return found
        arrays = dict(make())
        trouble = trouble or _write(path, key, arrays)
    if trouble:
        _log.warning("%s: cannot be written (%s): it is made anew at every start", path, trouble)
        return arrays
    return map_arrays(path, key) or arrays


def write_arrays(file: IO[bytes], key: str, arrays: Mapping[str, Array]) -> None:
    """Write one-dimensional arrays of int32, int64, float64 and uint8; the same bytes for the same arrays and key."""
    ordered = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))  # the wide ones stay aligned
    entries: dict[str, Any] = {}
    end = 0
    for name, array in ordered.items():
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": [len(array)], "data_offsets": [start, end]}
    checksum = _header_checksum(key, entries)
    for array in ordered.values():
        checksum = zlib.crc32(array.data, checksum)
    header = json.dumps({"__metadata__": {"key": key, "crc32": str(checksum)}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    for array in ordered.values():
        file.write(array.data)


def map_arrays(path: Path, key: str) -> dict[str, Array] | None:
    """The arrays of a file that `write_arrays` wrote with `key`; None for one that is missing, torn, foreign or other.

    Every byte is read once for the checksum: about half a second a gigabyte.
    """
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= _MAX_HEADER:
                return None
            entries = json.loads(file.read(size))
            metadata = entries.pop("__metadata__")
            checksum = _header_checksum(key, entries)
            while metadata["key"] == key and (block := file.read(1 << 20)):
                checksum = zlib.crc32(block, checksum)
            if metadata != {"key": key, "crc32": str(checksum)}:
                return None
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {name: _view(data, 8 + size, entry) for name, entry in entries.items()}


def _view(data: mmap.mmap, start: int, entry: Mapping[str, Any]) -> Array:
    dtype: np.dtype[Any] = _DTYPES[entry["dtype"]]
    (count,), place = entry["shape"], start + entry["data_offsets"][0]
    return np.frombuffer(data, dtype, count, place) if count else np.zeros(0, dtype)  # frombuffer refuses no bytes


def _header_checksum(key: str, entries: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps([key, entries]).encode())


def _lock(path: Path, stack: ExitStack) -> str:
    """Wait until no other process makes `path`, and keep others waiting until `stack` ends; or say what is in the way.

    The kernel's lock dies with its process. The file that bears it is removed by the one that holds it.
    """
    name = path.with_name(f".{path.name}.lock")
    try:
        while True:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("%s: another process makes it, this one waits", path)
                fcntl.flock(handle, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # removed by the one that held it: the next is another file
                if os.path.samestat(os.stat(name), os.fstat(handle)):
                    stack.callback(name.unlink, missing_ok=True)
                    return ""
    except OSError as error:
        return error.strerror or str(error)


def _write(path: Path, key: str, arrays: Mapping[str, Array]) -> str:
    """Write the file, or say what is in the way."""
    try:
        with atomic_write(path, binary=True) as file:
            write_arrays(file, key, arrays)
    except OSError as error:
        return error.strerror or str(error)
    return ""
