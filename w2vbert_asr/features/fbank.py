"""Log-mel filterbanks with Kaldi's values, batched over frames in torch, float32.

The same steps as Kaldi's `compute-fbank-feats` with dither 0: frames that fit whole (snip_edges), mean removed,
pre-emphasis, povey window, power spectrum, triangular mel filters from 20 Hz to Nyquist, natural logarithm floored at
that of float32's epsilon.
Dimension letters: N samples, T frames, F mel bins, W window.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SAMPLE_SCALE = 32768.0  # Kaldi reads 16-bit integers as they are
PREEMPHASIS = 0.97
LOW_FREQUENCY = 20.0  # Hz
ENERGY_FLOOR = torch.finfo(torch.float32).eps
Count = TypeVar("Count", int, npt.NDArray[np.int64])
CHUNK_FRAMES = 1024  # about 10 s at once: what is in between stays in the cache


@dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """What a filterbank looks like; two recordings are comparable when these are equal."""

    num_mel_bins: int = 80
    sample_rate: int = 16000  # Hz
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return int(self.sample_rate * self.frame_length_ms / 1000)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate * self.frame_shift_ms / 1000)

    @property
    def fft_size(self) -> int:
        """The window, rounded up to a power of two."""
        return 1 << (self.window - 1).bit_length()

    def problems(self) -> list[str]:
        """Values that make no filterbank."""
        checks = {
            f"num_mel_bins: {self.num_mel_bins} is not in 1 to 512; 80 is usual": 1 <= self.num_mel_bins <= 512,
            f"sample_rate: {self.sample_rate} Hz is not in 1000 to 384000": 1000 <= self.sample_rate <= 384000,
            f"frame_length_ms: {self.frame_length_ms} is not in 1 to 1000": 1 <= self.frame_length_ms <= 1000,
            f"frame_shift_ms: {self.frame_shift_ms} is not in 1 to 1000": 1 <= self.frame_shift_ms <= 1000,
        }
        return [message for message, fine in checks.items() if not fine]

    def num_frames(self, num_samples: Count) -> Count:
        """Frames that fit whole into `num_samples` samples (a number, or an array of them)."""
        frames = 1 + (num_samples - self.window) // self.shift
        return frames * (frames > 0)


def num_frames(num_samples: int, sample_rate: int) -> int:
    """Frames of 25 ms every 10 ms that fit whole into `num_samples` samples."""
    return FbankConfig(sample_rate=sample_rate).num_frames(num_samples)


def fbank(waveform: Tensor | np.ndarray, sample_rate: int, num_mel_bins: int = 80) -> Tensor:
    """(N,) samples in [-1, 1] -> (T, F) log-mel energies, float32, on the waveform's device.

    Fewer samples than a window give (0, F). Raises ValueError for anything but one channel.
    """
    return extract(waveform, FbankConfig(sample_rate=sample_rate, num_mel_bins=num_mel_bins))


def fbank_batch(waveforms: Sequence[Tensor], sample_rate: int, num_mel_bins: int = 80) -> list[Tensor]:
    """The filterbank of each waveform. No padding: each equals `fbank` of that waveform alone, to the bit."""
    config = FbankConfig(sample_rate=sample_rate, num_mel_bins=num_mel_bins)
    return [extract(waveform, config) for waveform in waveforms]


def extract(waveform: Tensor | np.ndarray, config: FbankConfig) -> Tensor:
    """`fbank` for any configuration."""
    samples = torch.as_tensor(waveform)
    if samples.ndim != 1:
        raise ValueError(f"fbank: expected one channel, shape (N,), found {tuple(samples.shape)}")
    samples = samples.to(torch.float32)
    feats = samples.new_empty(config.num_frames(len(samples)), config.num_mel_bins)
    for first in range(0, len(feats), CHUNK_FRAMES):
        last = min(first + CHUNK_FRAMES, len(feats))
        chunk = samples[first * config.shift : (last - 1) * config.shift + config.window]
        feats[first:last] = _log_mel(chunk, config)
    return feats


def _log_mel(samples: Tensor, config: FbankConfig) -> Tensor:
    """(N,) -> (T, F), all frames at once."""
    frames = (samples * SAMPLE_SCALE).unfold(0, config.window, config.shift)
    frames = frames - frames.mean(dim=1, keepdim=True)
    window, filters = _constants(config, samples.device)
    padded = frames.new_zeros(len(frames), config.fft_size)  # here, or the transform would copy everything to pad it
    emphasized = padded[:, : config.window]
    torch.sub(frames[:, 1:], frames[:, :-1], alpha=PREEMPHASIS, out=emphasized[:, 1:])
    torch.mul(frames[:, 0], 1 - PREEMPHASIS, out=emphasized[:, 0])  # Kaldi repeats the first sample
    emphasized *= window
    squares = torch.view_as_real(torch.fft.rfft(padded)).square_()
    spectrum = squares[..., 0] + squares[..., 1]  # a sum over a dimension of two is five times as slow
    return (spectrum @ filters).clamp_(min=ENERGY_FLOOR).log_()


@functools.lru_cache(maxsize=16)
def _constants(config: FbankConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """The povey window (W,) and the mel filters (fft_size / 2 + 1, F), float32."""
    phase = 2 * math.pi / (config.window - 1) * torch.arange(config.window, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(phase)).pow(0.85)
    return window.to(device, torch.float32), _mel_filters(config).to(device, torch.float32)


def _mel_filters(config: FbankConfig) -> Tensor:
    """(fft_size / 2 + 1, F) triangles, equally spaced and overlapping by half on the mel scale, float64."""
    frequencies = torch.arange(config.fft_size // 2 + 1, dtype=torch.float64) * (config.sample_rate / config.fft_size)
    low, high = _mel(torch.tensor([LOW_FREQUENCY, config.sample_rate / 2], dtype=torch.float64))
    step = (high - low) / (config.num_mel_bins + 1)
    position = (_mel(frequencies)[:, None] - low) / step - torch.arange(config.num_mel_bins, dtype=torch.float64)
    return torch.minimum(position, 2 - position).clamp(min=0)  # rises over one step, falls over the next


def _mel(frequencies: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(frequencies / 700.0)
