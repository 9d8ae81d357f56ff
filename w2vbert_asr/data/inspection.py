"""What can be known of an utterance's audio only by reading it: its true length, silence, clipping, a digest.

`prepare` reads all audio, and leaves what it found in `inspected.jsonl` of the data directory, with size and time of
modification of each file: so `validate` reads again only what has changed since.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from w2vbert_asr.data.audio import AudioError, audio_info, read_blocks
from w2vbert_asr.data.tables import Segment
from w2vbert_asr.errors import DataError

RECORD = "inspected.jsonl"
SILENT_PEAK = 1e-4  # three steps of 16 bits: what a codec makes of digital silence stays below
CLIPPED_LEVEL = 0.9999
CLIPPED_SHARE = 0.001  # of the samples, from which on it is worth a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The audio of one utterance: a file, or a part of it in seconds, and the samples that were declared."""

    path: Path
    start: float = 0.0
    end: float | None = None
    num_samples: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found. `reason` is empty for usable audio; otherwise one word, and `detail` says more."""

    reason: str = ""
    detail: str = ""
    sample_rate: int = 0
    num_samples: int = 0
    clipped: bool = False
    digest: bytes = b""  # of the samples: equal for the same audio under another name
    stamp: tuple[int, int] | None = field(default=None, compare=False)  # size and mtime (ns); None in a tar shard

    @property
    def duration(self) -> float:
        return self.num_samples / self.sample_rate

    def segment(self, rec_id: str, start: float) -> Segment:
        """The piece, with both ends on whole samples: every later reading gives exactly the samples counted here."""
        first = round(start * self.sample_rate)
        return Segment(rec_id, first / self.sample_rate, (first + self.num_samples) / self.sample_rate)


def inspect(piece: Piece) -> Inspection:
    """Read the whole piece. Never raises for what is wrong with it: that is the reason.

    Reasons: those of AudioError, `silent`, and `missing` for what is no readable file.
    """
    import numpy as np

    digest, count, peak, loud = hashlib.blake2b(digest_size=16), 0, 0.0, 0
    stamp = _stamp(piece.path)
    try:
        rate = audio_info(piece.path).sample_rate
        for block in read_blocks(piece.path, piece.start, piece.end, piece.num_samples):
            level = np.abs(block)
            digest.update(block.tobytes())
            count, peak, loud = (
                count + len(block),
                max(peak, float(level.max())),
                loud + int((level >= CLIPPED_LEVEL).sum()),
            )
    except AudioError as error:
        return Inspection(reason=error.reason, detail=str(error))
    except DataError as error:
        return Inspection(reason="missing", detail=str(error))
    if peak < SILENT_PEAK:
        return Inspection(
            reason="silent", detail=f"{piece.path}: silent: the loudest sample is {peak:.1e}; leave it out"
        )
    clipped = loud > CLIPPED_SHARE * count
    return Inspection(sample_rate=rate, num_samples=count, clipped=clipped, digest=digest.digest(), stamp=stamp)


def crashed(piece: Piece) -> Inspection:
    """The result for a file that killed the process that decoded it."""
    return Inspection(
        reason="undecodable", detail=f"{piece.path}: undecodable: the decoder crashed on it; leave it out"
    )


def record(pieces: Mapping[str, Piece], found: Mapping[str, Inspection]) -> str:
    """The lines of inspected.jsonl: what was found in usable pieces (utt_id -> piece), as validate will name them."""
    lines = []
    for utt_id in sorted(found):
        one, piece = found[utt_id], pieces[utt_id]
        if one.stamp is not None and not one.reason:
            audio = [one.sample_rate, one.num_samples, one.clipped, one.digest.hex()]
            lines.append(json.dumps([utt_id, piece.start, piece.end, *one.stamp, *audio]) + "\n")
    return "".join(lines)


def recall(path: Path, pieces: Mapping[str, Piece]) -> dict[str, Inspection]:
    """utt_id -> what the record at `path` says of the pieces that are the same, of files that are as they were.

    A line that is damaged or does not fit counts as none: its audio is read again.
    """
    found: dict[str, Inspection] = {}
    if not path.is_file():
        return found
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                utt_id, start, end, size, modified, rate, count, clipped, digest = json.loads(line)
                piece = pieces[utt_id]
                if (start, end, count) != (piece.start, piece.end, piece.num_samples) or not rate > 0:
                    continue
                if (size, modified) == _stamp(piece.path):
                    found[utt_id] = Inspection(
                        sample_rate=rate, num_samples=count, clipped=bool(clipped), digest=bytes.fromhex(digest)
                    )
            except (ValueError, TypeError, KeyError):
                continue
    return found


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
