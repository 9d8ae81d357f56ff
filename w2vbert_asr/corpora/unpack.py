"""Unpack a .tar.gz member by member: regular files only, below one folder, within limits."""

from __future__ import annotations

import errno
import gzip
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from w2vbert_asr.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold at most; speech in FLAC does not compress further, so 20 to 1 is ample."""

    members: int = 1_000_000
    bytes: int = 200 << 30
    ratio: float = 20.0
    slack: int = 16 << 20  # bytes that small archives of text may have beyond the ratio


class _Counted:
    """A decompressed stream that ends in an error at `limit` bytes, whatever the headers in it claim."""

    def __init__(self, stream: gzip.GzipFile, limit: int, name: Path) -> None:
        self.stream, self.left, self.name = stream, limit, name

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise DataError(f"{self.name}: unpacks to far more than speech would; refused")
        return data


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> None:
    """Unpack into the existing folder `target`.

    DataError, naming the member, for links, devices, absolute paths, `..`, odd names, duplicates, and past the limits;
    for a damaged archive as well. What was unpacked until then is the caller's to remove.
    """
    limits = limits or Limits()
    limit = int(min(limits.bytes, limits.ratio * archive.stat().st_size + limits.slack))
    seen: set[str] = set()
    claimed = 0
    try:
        with gzip.open(archive, "rb") as plain:
            stream = _Counted(plain, limit, archive)
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                for member in tar:
                    claimed += member.size
                    reason = _refusal(member, seen)
                    if not reason and len(seen) >= limits.members:
                        reason = f"more than {limits.members} members"
                    if not reason and claimed > limit:
                        reason = f"{claimed} bytes, more than {limit}"
                    if reason:
                        raise DataError(
                            f"{archive}: member {member.name!r}: {reason}; refused, do not use this archive"
                        )
                    seen.add(str(PurePosixPath(member.name)))
                    if member.isfile():
                        _write(tar, member, target / member.name)
            while stream.read(1 << 20):  # to the end, where the checksum is
                pass
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{archive}: damaged ({error}); remove it and fetch it again") from error


def _refusal(member: tarfile.TarInfo, seen: set[str]) -> str:
    name = PurePosixPath(member.name)
    if not (member.isfile() or member.isdir()) or member.issparse():
        return "neither a plain file nor a folder"
    if name.is_absolute() or ".." in name.parts:
        return "leads out of the folder"
    if not member.name.isprintable() or "\\" in member.name or not (name.parts or member.isdir()):
        return "odd name"
    if str(name) in seen and member.isfile():
        return "a second time"
    return ""


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            if source is not None:
                shutil.copyfileobj(source, file)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
            raise  # the disk
        raise DataError(f"member {member.name!r}: cannot be written ({error.strerror}); refused") from error
