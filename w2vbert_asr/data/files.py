"""Files and folders that appear whole or not at all, and files that are safe to open."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from w2vbert_asr.data.faults import fault
from w2vbert_asr.errors import DataError

_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))


def require_regular(path: Path) -> os.stat_result:
    """The status of a regular file, symbolic links followed.

    Raises DataError for everything else. FIFOs and devices are not opened, so nothing blocks.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: cannot be read ({reason}); give an existing file") from error
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "a device")
        raise DataError(f"{path}: is {kind}, not a regular file; give a regular file")
    return status


@contextmanager
def atomic_write(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A file handle (UTF-8 text, or bytes) whose contents replace `path` when the block ends well."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    try:
        with open(partial, "wb") if binary else open(partial, "w", encoding="utf-8", newline="\n") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path`, in place of an old one, when the block ends well.

    The folder is removed when the block fails, and what a killed run left behind is removed by the next one.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file, and a folder is to be written there; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = _beside(path, "partial"), _beside(path, "old")
    if old.exists() and not path.exists():
        old.rename(path)  # killed between the two renames below
    _remove(partial)
    partial.mkdir()
    try:
        yield partial
        found = list(os.walk(partial))
        # Side by side, because the disk commits many at once: 2,300 files take 0.3 s like this, 8 s one by one.
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(_sync, (Path(folder, name) for folder, _, names in found for name in names)))
            list(threads.map(_sync, (Path(folder) for folder, _, _ in found)))
    except BaseException:
        _remove(partial)
        raise
    fault("atomic_dir.before_rename")
    _remove(old)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    sync_folder(path.parent)
    _remove(old)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a rename survives a power cut only after this."""
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def absolute(path: Path) -> str:
    """`path` as it is written into wav.scp and feats.scp: it resolves from any working directory."""
    return os.path.abspath(path)


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
