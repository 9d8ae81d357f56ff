"""The filterbank against two independent implementations, and what must not change its numbers."""

import math

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from w2vbert_asr.features import fbank as module
from w2vbert_asr.features.fbank import FbankConfig, fbank, fbank_batch, num_frames

FLOOR = float(np.log(np.finfo(np.float32).eps))


def kaldi(samples: torch.Tensor, sample_rate: int) -> torch.Tensor:
    options = kaldi_native_fbank.FbankOptions()
    frames = options.frame_opts
    frames.samp_freq, frames.dither, frames.snip_edges = sample_rate, 0.0, True
    frames.preemph_coeff, frames.remove_dc_offset, frames.window_type = 0.97, True, "povey"
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 80, 20.0, 0.0
    options.use_energy, options.energy_floor, options.use_log_fbank, options.use_power = False, 0.0, True, True
    online = kaldi_native_fbank.OnlineFbank(options)
    online.accept_waveform(sample_rate, (samples * 32768).tolist())
    online.input_finished()
    rows = [online.get_frame(i) for i in range(online.num_frames_ready)]
    return torch.tensor(np.array(rows, dtype=np.float32).reshape(-1, 80))


def noise(num_samples: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * scale


def assert_equal(feats: torch.Tensor, expected: torch.Tensor) -> None:
    """1e-3 in the log domain; 80 dB below a frame's peak float32's rounding noise is part of any implementation."""
    assert feats.shape == expected.shape
    if len(feats):
        heard = expected > expected.amax(dim=1, keepdim=True) - 8 * math.log(10)
        assert float((feats - expected)[heard].abs().max()) < 1e-3
        assert float((feats - expected).abs().max()) < 0.2


def chirp(sample_rate: int) -> torch.Tensor:
    """100 Hz to Nyquist, over noise at -60 dB."""
    time = torch.arange(2 * sample_rate, dtype=torch.float64) / sample_rate
    sweep = 0.3 * torch.sin(2 * torch.pi * (100 * time + (sample_rate / 2 - 100) * time**2 / 4))
    return sweep.float() + noise(len(time), seed=1, scale=3e-4)


SIGNALS = {
    "noise": lambda rate: noise(3 * rate),
    "quiet": lambda rate: noise(rate, scale=1e-4),
    "loud": lambda rate: noise(rate, scale=2.0).clamp(-1, 1),
    "offset": lambda rate: noise(rate) + 0.5,
    "chirp": chirp,
    "silence": lambda rate: torch.zeros(rate),
    "half": lambda rate: torch.cat([torch.zeros(rate), noise(rate)]),
}


@pytest.mark.parametrize("sample_rate", [8000, 16000])
@pytest.mark.parametrize("name", list(SIGNALS))
def test_equals_kaldi(name: str, sample_rate: int) -> None:
    samples = SIGNALS[name](sample_rate)
    assert_equal(fbank(samples, sample_rate), kaldi(samples, sample_rate))


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 44100])
@pytest.mark.parametrize("name", ["noise", "offset", "chirp", "silence"])
def test_equals_torchaudio(name: str, sample_rate: int) -> None:
    torchaudio = pytest.importorskip("torchaudio")
    samples = SIGNALS[name](sample_rate)
    expected = torchaudio.compliance.kaldi.fbank(  # in float64: the values before any rounding
        samples[None].double() * 32768, num_mel_bins=80, sample_frequency=sample_rate
    )
    assert_equal(fbank(samples, sample_rate), expected.float().clamp(min=FLOOR))  # float64 has a lower floor


@pytest.mark.parametrize("num_mel_bins", [23, 40, 128])
def test_other_numbers_of_bins_equal_torchaudio(num_mel_bins: int) -> None:
    torchaudio = pytest.importorskip("torchaudio")
    samples = noise(8000)
    expected = torchaudio.compliance.kaldi.fbank(samples[None] * 32768, num_mel_bins=num_mel_bins)
    torch.testing.assert_close(fbank(samples, 16000, num_mel_bins), expected, rtol=0, atol=1e-3)


def test_silence_is_at_the_floor() -> None:
    assert torch.equal(fbank(torch.zeros(1600), 16000), torch.full((8, 80), FLOOR))


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 401, 559, 560, 561, 5000])
def test_every_length_equals_kaldi(num_samples: int) -> None:
    samples = noise(num_samples)
    feats = fbank(samples, 16000)
    assert feats.shape == (num_frames(num_samples, 16000), 80) and feats.dtype == torch.float32
    torch.testing.assert_close(feats, kaldi(samples, 16000), rtol=0, atol=1e-3)


def test_alone_and_in_a_batch_are_the_same_numbers() -> None:
    waveforms = [noise(n, seed=n) for n in (300, 400, 9999, 48000)]
    alone = [fbank(waveform, 16000) for waveform in waveforms]
    assert all(map(torch.equal, alone, fbank_batch(waveforms, 16000)))
    assert all(map(torch.equal, reversed(alone), fbank_batch(waveforms[::-1], 16000)))


def test_chunks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(16000)
    whole = fbank(samples, 16000)
    monkeypatch.setattr(module, "CHUNK_FRAMES", 7)
    torch.testing.assert_close(fbank(samples, 16000), whole, rtol=0, atol=1e-5)


def test_the_waveform_stays_and_arrays_are_welcome() -> None:
    samples = noise(4000)
    before = samples.clone()
    assert torch.equal(fbank(samples, 16000), fbank(samples.numpy().astype(np.float64), 16000))
    assert torch.equal(samples, before)


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one channel.*\(2, 4000\)"):
        fbank(torch.zeros(2, 4000), 16000)


def test_configuration_says_what_is_wrong() -> None:
    assert FbankConfig().problems() == []
    assert len(FbankConfig(num_mel_bins=0, sample_rate=10, frame_shift_ms=0.0).problems()) == 3
