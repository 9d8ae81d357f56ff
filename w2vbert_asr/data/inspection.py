"""What can be known of an utterance's audio only by reading it: its true length, silence, clipping, a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.data.audio import AudioError, audio_info, read_blocks
from w2vbert_asr.data.tables import Segment
from w2vbert_asr.errors import DataError

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

    digest, count, peak, loud = hashlib.sha256(), 0, 0.0, 0
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
    return Inspection(sample_rate=rate, num_samples=count, clipped=clipped, digest=digest.digest()[:16])


def crashed(piece: Piece) -> Inspection:
    """The result for a file that killed the process that decoded it."""
    return Inspection(
        reason="undecodable", detail=f"{piece.path}: undecodable: the decoder crashed on it; leave it out"
    )
