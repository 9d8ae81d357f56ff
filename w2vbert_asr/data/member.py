"""A recording inside a tar shard: `shard-000001.tar:1536` in wav.scp, the number being where its bytes begin.

Its size stands in the member's header, in the 512 bytes before them. Other audio is a file of its own.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from w2vbert_asr.data.files import require_regular
from w2vbert_asr.errors import DataError

BLOCK = tarfile.BLOCKSIZE  # 512 bytes
_REFERENCE = re.compile(r"(.+\.tar):([0-9]{1,18})", re.DOTALL)


class NoRecording(DataError):
    """A place in a shard at which there is no whole recording; `detail` says what there is."""

    def __init__(self, shard: Path, offset: int, detail: str) -> None:
        super().__init__(shard, offset, detail)  # the arguments as they are, so that it can be pickled
        self.detail = detail

    def __str__(self) -> str:
        return "{}, offset {}: {}".format(*self.args)


def split(path: Path) -> tuple[Path, int] | None:
    """(shard, offset) of a recording in a shard; None for a file of its own."""
    found = _REFERENCE.fullmatch(os.fspath(path))
    return (Path(found[1]), int(found[2])) if found else None


def file_of(path: Path) -> Path:
    """The file that holds the recording `path`: the shard, or itself."""
    inside = split(path)
    return inside[0] if inside else path


@dataclass
class Member:
    """The bytes of one recording as a file to read: `size` bytes of `file` from `start` on. name: in the archive."""

    file: IO[bytes]
    start: int
    size: int
    name: str
    place: int = 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, those to the end for -1."""
        left = max(self.size - self.place, 0)
        self.file.seek(self.start + self.place)
        found = self.file.read(left if size < 0 else min(size, left))
        self.place += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, counted as in any file."""
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        """The place."""
        return self.place


@contextmanager
def open_recording(path: Path) -> Iterator[Member]:
    """The bytes of a recording, in a shard or a file of its own.

    DataError for what is no regular file, NoRecording with shard and offset where no whole member begins.
    """
    inside = split(path)
    size = require_regular(file_of(path)).st_size
    with _open(file_of(path)) as file:
        if inside is None:
            yield Member(file, 0, size, path.name)
        else:
            yield _find(file, *inside, size)


def _open(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _find(file: IO[bytes], shard: Path, offset: int, size: int) -> Member:
    """The member whose bytes begin at `offset`, its header checked."""
    remedy = "restore the shard, or make it again with `w2vbert shard`"
    header = b""
    if BLOCK <= offset <= size and offset % BLOCK == 0:
        file.seek(offset - BLOCK)
        header = file.read(BLOCK)
    try:
        if header[257:262] != b"ustar":
            raise tarfile.HeaderError("no header before it")
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")  # compares the checksum
        if not member.isreg():
            raise tarfile.HeaderError("no plain file")
    except tarfile.HeaderError as error:
        detail = f"no recording begins there ({error}), the shard has {size} bytes; {remedy}"
        raise NoRecording(shard, offset, detail) from error
    if offset + member.size > size:
        detail = f"{member.size} bytes claimed, the shard ends after {size}: cut short; {remedy}"
        raise NoRecording(shard, offset, detail)
    return Member(file, offset, member.size, member.name)
