from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.speech import noise, write_audio
from w2vbert_asr.data import audio
from w2vbert_asr.data.audio import read_audio
from w2vbert_asr.data.inspection import Piece, inspect


def test_a_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("a.wav", 0), ("b.flac", 0), ("c.wav", 1)):
        soundfile.write(tmp_path / name, (noise(1.0, seed, 8000) * 32767).astype(np.int16), 8000)
    a, b, c = (inspect(Piece(path=tmp_path / name)) for name in ("a.wav", "b.flac", "c.wav"))
    assert (a.reason, a.sample_rate, a.num_samples, a.duration, a.clipped) == ("", 8000, 8000, 1.0, False)
    assert a.digest == b.digest != c.digest  # the samples, not the file
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    assert inspect(Piece(path=tmp_path / "a.wav")) == a


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_segment_on_whole_samples_reads_what_was_counted(tmp_path: Path, rate: int) -> None:
    path = write_audio(tmp_path / "a.wav", 3.0, rate=rate)
    rng = np.random.default_rng(0)
    for _ in range(40):
        start, end = np.sort(rng.uniform(0, 3, 2)).tolist()
        if rng.random() < 0.5:
            start = (round(start * rate) + 0.5) / rate  # between two samples, where rounding is undecided
        found = inspect(Piece(path=path, start=start, end=end))
        if found.reason:
            continue
        segment = found.segment("rec", start)
        samples = read_audio(path, None, segment.start, segment.end, found.num_samples)
        assert len(samples) == found.num_samples


def test_silence_and_clipping(tmp_path: Path) -> None:
    samples = noise(1.0)
    for name, data in {
        "silent": np.zeros(16000),
        "codec": samples * 1e-4,
        "quiet": samples * 1e-3,
        "loud": np.clip(samples * 4, -1, 1),
        "once": np.where(np.arange(16000) == 5, 1.0, samples),
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", data, 16000, subtype="FLOAT")
    found = {path.stem: inspect(Piece(path=path)) for path in tmp_path.iterdir()}
    assert {name: result.reason for name, result in found.items()} == {
        "silent": "silent",
        "codec": "silent",
        "quiet": "",
        "loud": "",
        "once": "",
    }
    assert [name for name, result in found.items() if result.clipped] == ["loud"]


def test_nothing_is_raised_for_a_missing_file(tmp_path: Path) -> None:
    found = inspect(Piece(path=tmp_path / "none.wav"))
    assert found.reason == "missing" and "none.wav" in found.detail
