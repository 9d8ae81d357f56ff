"""Features straight from audio: pieces, rates and speeds against signals whose spectrum is known."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2vbert_asr.data.audio import AudioError
from w2vbert_asr.data.online import online_feats, speed_prefix
from w2vbert_asr.features.fbank import FbankConfig, fbank

CONFIG = FbankConfig()


def tone(path: Path, hertz: float, seconds: float = 1.0, rate: int = 16000) -> np.ndarray:
    samples = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return samples.astype(np.float32)


def test_equals_the_filterbank_of_the_samples(tmp_path: Path) -> None:
    samples = tone(tmp_path / "a.wav", 440.0)
    assert torch.equal(online_feats(tmp_path / "a.wav", CONFIG), fbank(samples, 16000))
    piece = online_feats(tmp_path / "a.wav", CONFIG, start=0.25, end=0.75, num_samples=8000)
    assert torch.equal(piece, fbank(samples[4000:12000], 16000))


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_faster_is_shorter_and_higher(tmp_path: Path, speed: float) -> None:
    """1000 Hz played faster by a factor is a tone of 1000 Hz times that factor, shorter by it."""
    tone(tmp_path / "a.wav", 1000.0, seconds=2.0)
    expected = tone(tmp_path / "b.wav", 1000.0 * speed, seconds=2.0 / speed)
    feats = online_feats(tmp_path / "a.wav", CONFIG, speed=speed)
    assert abs(len(feats) - CONFIG.num_frames(len(expected))) <= 1
    middle = slice(20, len(feats) - 20)
    peak = feats[middle].mean(dim=0).argmax()
    assert peak == fbank(expected, 16000)[middle].mean(dim=0).argmax()
    assert peak != online_feats(tmp_path / "a.wav", CONFIG)[20:-20].mean(dim=0).argmax()


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 1000.0)
    tone(tmp_path / "b.wav", 1000.0, rate=44100)
    first, second = (online_feats(tmp_path / name, CONFIG) for name in ("a.wav", "b.wav"))
    loud = first > first.max() - 8
    assert first.shape == second.shape and float((first - second)[2:-2][loud[2:-2]].abs().max()) < 0.02


def test_fewer_samples_than_declared(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 440.0)
    with pytest.raises(AudioError) as caught:
        online_feats(tmp_path / "a.wav", CONFIG, num_samples=16001)
    assert caught.value.reason == "frames_mismatch"


def test_prefixes() -> None:
    assert [speed_prefix(speed) for speed in (0.9, 1.0, 1.1, 1.25)] == ["sp0.9-", "", "sp1.1-", "sp1.25-"]
