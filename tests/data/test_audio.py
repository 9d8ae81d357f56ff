from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.speech import noise, write_audio
from w2vbert_asr.data import audio
from w2vbert_asr.data.audio import AudioError, audio_info, perturb_speed, read_audio, read_blocks, resample


def sine(frequency: float, seconds: float, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def peak_frequency(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * rate / len(samples)


def test_info(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", 0.75, rate=8000)
    info = audio_info(tmp_path / "a.flac")
    assert (info.sample_rate, info.num_samples, info.num_channels, info.duration) == (8000, 6000, 1, 0.75)


def test_samples_are_those_that_were_written(tmp_path: Path) -> None:
    steps = np.round(noise(1.0) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", steps, 16000)
    samples = read_audio(tmp_path / "a.wav", num_samples=16000)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, steps / np.float32(32768))


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = noise(0.5, 1), noise(0.5, 2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)


def test_pieces_and_blocks_are_cuts_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.wav", "a.flac"):
        write_audio(tmp_path / name, 2.0)
        whole = read_audio(tmp_path / name)
        np.testing.assert_array_equal(read_audio(tmp_path / name, start=0.5, end=1.25), whole[8000:20000])
        np.testing.assert_array_equal(read_audio(tmp_path / name, start=1.9), whole[30400:])
        with monkeypatch.context() as patch:
            patch.setattr(audio, "_BLOCK", 999)
            blocks = list(read_blocks(tmp_path / name, 0.5))
            assert max(map(len, blocks)) == 999
            np.testing.assert_array_equal(np.concatenate(blocks), whole[8000:])


def test_piece_behind_the_end(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 1.0)
    assert len(read_audio(path, end=1.0 + 0.5 / 16000)) == 16000  # less than a sample: rounding
    for start, end in ((0.5, 1.01), (1.0, None), (3.0, 4.0)):
        with pytest.raises(AudioError) as error:
            read_audio(path, start=start, end=end)
        assert error.value.reason == "frames_mismatch"
    with pytest.raises(AudioError) as error:
        read_audio(path, start=0.5, end=0.500001)
    assert error.value.reason == "empty"


def test_declared_samples_are_compared_at_the_rate_of_the_file(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 1.0, rate=8000)
    assert len(read_audio(path, num_samples=8000)) == 16000
    with pytest.raises(AudioError, match="8001 samples declared, 8000 read") as error:
        read_audio(path, num_samples=8001)
    assert error.value.reason == "frames_mismatch"


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_resampling_keeps_length_pitch_and_level(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", sine(1000.0, 1.0, rate), rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "a.wav")
    assert abs(len(samples) - 16000) <= 1
    middle = samples[2000:14000]
    expected = sine(1000.0, 1.0, 16000)[2000:14000]
    assert np.max(np.abs(middle - expected)) < 1e-3
    assert len(read_audio(tmp_path / "a.wav", sample_rate=None)) == rate


def test_same_rate_is_not_touched() -> None:
    samples = noise()
    assert resample(samples, 16000, 16000) is samples


@pytest.mark.parametrize("factor", [0.9, 1.1, 2.0])
def test_speed(factor: float) -> None:
    faster = perturb_speed(sine(500.0, 2.0, 16000), factor)
    assert faster.dtype == np.float32
    assert abs(len(faster) - 32000 / factor) <= 1
    assert abs(peak_frequency(faster, 16000) - 500.0 * factor) < 1.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "DOUBLE"}),
        ("a.wav", {"subtype": "ULAW"}),
        ("a.aiff", {}),
        ("a.au", {}),
        ("a.sph", {"format": "NIST"}),
        ("a.flac", {}),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {"format": "MP3"}),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    soundfile.write(tmp_path / name, sine(440.0, 1.0, 16000), 16000, **options)
    samples = read_audio(tmp_path / name)
    assert len(samples) == 16000
    assert abs(peak_frequency(samples, 16000) - 440.0) < 1.0
    assert abs(np.sqrt(np.mean(samples[4000:12000] ** 2)) - 0.5 / np.sqrt(2)) < 0.02


def test_float_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5, 3.0, -7.0]), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), [0.5, 1.0, -1.0])


def test_error_survives_a_process_boundary(tmp_path: Path) -> None:
    error = copy.copy(AudioError("empty", tmp_path, "no samples"))  # as it crosses processes
    assert (error.reason, str(error)) == ("empty", f"{tmp_path}: empty: no samples")
