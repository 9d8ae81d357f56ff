"""A long recording in pieces, cut where it is quietest: every sample in one of them, and a few pieces in memory.

Dimension letters: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2vbert_asr.data.audio import audio_info, read_audio, read_blocks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

QUIET_SECONDS = 0.2  # the stretch whose energy is compared; the cut is in its middle
STEP_SECONDS = 0.01  # from one such stretch to the next
_AT_ONCE = 10  # seconds that are resampled together


@dataclass(frozen=True)
class Piece:
    """(N,) float32 samples, the first of which is number `start` of the recording."""

    start: int
    samples: npt.NDArray[np.float32]


def read_pieces(path: Path, sample_rate: int, max_seconds: float) -> Iterator[Piece]:
    """A file at `sample_rate` in pieces of at most `max_seconds`; if it is shorter whole, as `read_audio` gives it.

    Raises AudioError as `read_audio` does; for damage in the middle of a long file when that is reached.
    """
    info = audio_info(path)
    if info.duration <= max_seconds:
        yield Piece(0, read_audio(path, sample_rate))
    else:
        yield from cut(_resampled(read_blocks(path), info.sample_rate, sample_rate), sample_rate, max_seconds)


def cut(blocks: Iterable[npt.NDArray[np.float32]], sample_rate: int, max_seconds: float) -> Iterator[Piece]:
    """Blocks of samples, one after another, in pieces of at most `max_seconds`.

    What is longer is cut in the quietest 200 ms of the last half of those seconds. Memory holds a block and a piece.
    """
    import numpy as np

    most = int(max_seconds * sample_rate)
    start, held = 0, np.zeros(0, dtype=np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > most:
            end = most // 2 + _quietest(held[most // 2 : most], sample_rate)
            yield Piece(start, held[:end].copy())  # not a view, which would keep all that was held
            start, held = start + end, held[end:]
    if start == 0 or len(held):
        yield Piece(start, held)


def _quietest(samples: npt.NDArray[np.float32], sample_rate: int) -> int:
    """The middle of the quietest stretch of (N,) samples, of the middle one where several are as quiet."""
    import numpy as np

    length = min(int(QUIET_SECONDS * sample_rate), len(samples))
    total = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    begins = np.arange(0, len(samples) - length + 1, int(STEP_SECONDS * sample_rate))
    energy = total[begins + length] - total[begins]
    quietest = np.flatnonzero(energy == energy.min())
    return int(begins[quietest[len(quietest) // 2]]) + length // 2


def _resampled(
    blocks: Iterable[npt.NDArray[np.float32]], from_rate: int, to_rate: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks at one rate as blocks at another, without a seam between them (soxr HQ), within [-1, 1]."""
    import numpy as np

    if from_rate == to_rate:
        yield from (np.clip(block, -1.0, 1.0) for block in blocks)
        return
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        for first in range(0, len(block), _AT_ONCE * from_rate):
            yield np.clip(stream.resample_chunk(block[first : first + _AT_ONCE * from_rate]), -1.0, 1.0)
    yield np.clip(stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True), -1.0, 1.0)
