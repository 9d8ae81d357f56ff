"""Audio files: what a header says, and samples as float32 mono, checked while they are read.

A path is that of a file, or `shard.tar:OFFSET` for a recording in a shard.
Nothing is allocated by what a header claims: samples are read in blocks, so memory follows what is really there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2vbert_asr.data.member import NoRecording, open_recording, split
from w2vbert_asr.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_CHANNELS = 64
RATES = (1_000, 768_000)  # Hz
# Silence in FLAC or Opus reaches a few thousand samples a byte; a header that claims more than this lies.
MAX_SAMPLES_PER_BYTE = 8_192
_BLOCK = 1 << 20  # samples, over all channels
_UNKNOWN = (1 << 63) - 1  # frames, in libsndfile
_STREAMED = 0x7FFF_F000  # a RIFF size from here on: written to a pipe, length unknown


class AudioError(DataError):
    """An audio file that cannot be used; `reason` is one word, for reports.

    `undecodable`, `empty`, `nonfinite` or `frames_mismatch`.
    """

    def __init__(self, reason: str, path: Path | str, detail: str) -> None:
        super().__init__(reason, str(path), detail)  # the arguments as they are, so that it can be pickled
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return "{1}: {0}: {2}".format(*self.args)


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What the header of a file says; `duration` in seconds."""

    sample_rate: int
    num_samples: int
    num_channels: int

    @property
    def duration(self) -> float:
        return self.num_samples / self.sample_rate

    def span(self, start: float = 0.0, end: float | None = None) -> tuple[int, int]:
        """(first, last + 1) sample of a piece in seconds; None is the end of the file."""
        return round(start * self.sample_rate), self.num_samples if end is None else round(end * self.sample_rate)


def audio_info(path: Path) -> AudioInfo:
    """The header of an audio file. AudioError where it is undecodable, empty or absurd."""
    with _open(path) as (_, info):
        return info


def read_audio(
    path: Path,
    sample_rate: int | None = 16000,
    start: float = 0.0,
    end: float | None = None,
    num_samples: int | None = None,
) -> npt.NDArray[np.float32]:
    """The samples of a file, or of the piece from `start` to `end` seconds: (N,) float32 in [-1, 1].

    Channels are averaged; another rate is resampled (soxr HQ) to `sample_rate`, None keeps that of the file.
    `num_samples` is the count at the rate of the file that was declared when the data were prepared.
    Raises AudioError with reason `undecodable`, `empty`, `nonfinite` or `frames_mismatch`.
    """
    import numpy as np

    info = audio_info(path)
    blocks = list(read_blocks(path, start, end, num_samples))
    samples = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    if sample_rate is not None:
        samples = resample(samples, info.sample_rate, sample_rate)
    clipped: npt.NDArray[np.float32] = np.clip(samples, -1.0, 1.0)
    return clipped


def resample(samples: npt.NDArray[np.float32], from_rate: float, to_rate: float) -> npt.NDArray[np.float32]:
    """(N,) samples at one rate -> (about N * to_rate / from_rate,) at another, both in Hz (soxr HQ)."""
    if from_rate == to_rate:
        return samples
    import soxr

    resampled: npt.NDArray[np.float32] = soxr.resample(samples, from_rate, to_rate, quality="HQ")
    return resampled


def perturb_speed(samples: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.float32]:
    """(N,) -> (about N / factor,): the same signal played `factor` times faster, pitch and all."""
    return resample(samples, factor, 1.0)


def read_blocks(
    path: Path, start: float = 0.0, end: float | None = None, num_samples: int | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """What `read_audio` reads, at the rate of the file and in blocks, so that its length does not cost memory."""
    import numpy as np
    import soundfile

    with _open(path) as (file, info):
        first, last = info.span(start, end)
        if first >= info.num_samples or last > info.num_samples + 1:
            detail = f"{start} to {end} seconds asked for, the file has {info.duration:.6f}; mend segments or the file"
            raise AudioError("frames_mismatch", path, detail)
        left = min(last, info.num_samples) - first
        if left == 0:
            raise AudioError("empty", path, f"{start} to {end} seconds hold not one sample; mend segments")
        declared, read, step = left if num_samples is None else num_samples, 0, _BLOCK // info.num_channels
        try:
            if first:
                file.seek(first)
            while read < left:
                block = file.read(min(step, left - read), dtype="float32", always_2d=True)
                if len(block) == 0:
                    break
                read += len(block)
                mono = block[:, 0] if info.num_channels == 1 else block.mean(axis=1, dtype=np.float32)
                if not np.isfinite(mono).all():
                    raise AudioError("nonfinite", path, "has samples that are not finite numbers; leave it out")
                yield mono
        except soundfile.LibsndfileError as error:
            raise AudioError("undecodable", path, f"damaged ({_say(error)}); restore it or leave it out") from error
    if read != declared:
        detail = f"{declared} samples declared, {read} read; restore the file or prepare the data again"
        raise AudioError("frames_mismatch", path, detail)


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, AudioInfo]]:
    """A SoundFile and what its header says."""
    import soundfile

    with ExitStack() as stack:
        try:
            raw = stack.enter_context(open_recording(path))
        except NoRecording as error:
            raise AudioError("undecodable", path, error.detail) from error
        head = raw.read(8)
        raw.seek(0)
        try:
            # libsndfile reads a file of its own faster than through Python.
            file = stack.enter_context(soundfile.SoundFile(os.fspath(path) if split(path) is None else raw))
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: .raw, which has no header
            reason = "empty" if raw.size == 0 else "undecodable"
            raise AudioError(reason, path, f"not an audio file that soundfile reads ({_say(error)})") from error
        yield file, _info(path, file, raw.size, head)


def _info(path: Path, file: Any, size: int, head: bytes) -> AudioInfo:
    """What the header says of `size` bytes that begin with `head`."""
    rate, count, channels = int(file.samplerate), int(file.frames), int(file.channels)
    if count <= 0:
        raise AudioError("empty", path, "has a header and no samples")
    if count == _UNKNOWN:
        raise AudioError("undecodable", path, "the header does not say its length (a stream); encode it again")
    if not RATES[0] <= rate <= RATES[1] or channels > MAX_CHANNELS or count > size * MAX_SAMPLES_PER_BYTE:
        detail = f"the header claims {count} samples in {channels} channels at {rate} Hz, in a file of {size} bytes"
        raise AudioError("undecodable", path, detail)
    riff = int.from_bytes(head[4:8], "little") + 8 if head.startswith(b"RIFF") else 0
    if size < riff - 1 < _STREAMED:  # - 1: some writers leave out the pad byte
        raise AudioError("frames_mismatch", path, f"the header claims {riff} bytes, the file has {size}: cut short")
    return AudioInfo(sample_rate=rate, num_samples=count, num_channels=channels)


def _say(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
