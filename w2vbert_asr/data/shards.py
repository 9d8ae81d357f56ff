"""Audio files packed into tar shards, byte for byte as they are, so that a corpus is a few thousand files.

The archives are plain uncompressed ones (POSIX.1-2001): members are numbered, and each has its rec_id as its comment.
Nothing in them depends on when, where or by whom they were made.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.data.member import BLOCK, Member, open_recording
from w2vbert_asr.data.parallel import end_with_parent, piles
from w2vbert_asr.errors import DataError

MAX_BYTES = 8**11 - 1  # of a recording: what the size in a tar header can say
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recording. duration: seconds of its utterances."""

    rec_id: str
    audio: Path
    duration: float


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What goes into one archive."""

    path: Path
    recordings: tuple[Recording, ...]


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What went into it: (rec_id, offset), and (rec_id, reason, detail) of what did not."""

    name: str
    written: list[tuple[str, int]]
    dropped: list[tuple[str, str, str]]


def plan(recordings: Sequence[Recording], folder: Path, seconds: float) -> Iterator[Shard]:
    """Deal recordings, in their order, into shards that are full with `seconds` of audio."""
    for number, pile in enumerate(piles(recordings, lambda recording: recording.duration, seconds), 1):
        yield Shard(path=folder / f"shard-{number:06d}.tar", recordings=pile)


def write_shard(shard: Shard) -> ShardResult:
    """Write an archive. Raises OSError when the disk is full, DataError for a file that changes meanwhile."""
    written: list[tuple[str, int]] = []
    dropped: list[tuple[str, str, str]] = []
    with open(shard.path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for recording in shard.recordings:
            end_with_parent()
            with ExitStack() as stack:
                try:
                    source = stack.enter_context(open_recording(recording.audio))
                except DataError as error:
                    dropped.append((recording.rec_id, "missing", str(error)))
                    continue
                if not 0 < source.size <= MAX_BYTES:
                    reason = "too_large" if source.size else "empty"
                    dropped.append((recording.rec_id, reason, f"{recording.audio}: has {source.size} bytes"))
                    continue
                offset = _append(tar, _header(len(written), recording, source), source, recording.audio)
                written.append((recording.rec_id, offset))
    return ShardResult(name=shard.path.name, written=written, dropped=dropped)


def _header(number: int, recording: Recording, source: Member) -> tarfile.TarInfo:
    suffix = Path(source.name).suffix
    header = tarfile.TarInfo(f"{number:08d}{suffix if _SUFFIX.fullmatch(suffix) else ''}")
    header.size = source.size
    header.pax_headers = {"comment": recording.rec_id}
    return header


def _append(tar: tarfile.TarFile, header: tarfile.TarInfo, source: Member, audio: Path) -> int:
    """Where the bytes of the new member begin."""
    try:
        tar.addfile(header, source)
    except OSError as error:
        if error.errno is not None:  # of the disk; tarfile's own say that the bytes ended too soon
            raise
        raise DataError(f"{audio}: became shorter while it was read; run the same again") from error
    return tar.offset - -(-source.size // BLOCK) * BLOCK
