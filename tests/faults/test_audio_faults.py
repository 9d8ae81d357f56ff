"""Rows A01 to A11 of the table of faults, as far as reading and validating audio go."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.speech import noise, write_audio
from w2vbert_asr.corpora.raw import RawUtterance, write_sets
from w2vbert_asr.data import kaldi_dir
from w2vbert_asr.data.audio import AudioError, read_audio
from w2vbert_asr.data.inspection import Piece, inspect


def reason(path: Path, num_samples: int | None = None) -> str:
    """The reason of reading the file, which is that of inspecting it."""
    found = inspect(Piece(path=path, num_samples=num_samples)).reason
    if found not in ("", "silent", "missing"):
        with pytest.raises(AudioError) as error:
            read_audio(path, num_samples=num_samples)
        assert error.value.reason == found
        assert str(path) in str(error.value)
    return found


def test_a01_missing_files_are_dropped_and_listed(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    raws = [RawUtterance(f"s-{name}", "s", tmp_path / f"{name}.wav", "X") for name in "ab"]
    assert write_sets(tmp_path / "out", {"set": raws}, 1) == {
        "set": {"utterances": 1, "speakers": 1, "hours": 0.0001, "dropped": {"missing": 1}}
    }
    assert "s-b\tmissing\t" in (tmp_path / "out" / "set" / "dropped.tsv").read_text()


def test_a02_no_audio_in_it(tmp_path: Path) -> None:
    whole = write_audio(tmp_path / "whole.wav").read_bytes()
    contents = {
        "zero.wav": (b"", "empty"),
        "header.wav": (whole[:44], "empty"),
        "half_header.wav": (whole[:20], "undecodable"),
        "page.wav": (b"<!DOCTYPE html><html>404</html>", "undecodable"),
        "page.flac": (b"<!DOCTYPE html><html>404</html>", "undecodable"),
        "headerless.raw": (whole, "undecodable"),
    }
    for name, (data, expected) in contents.items():
        (tmp_path / name).write_bytes(data)
        assert reason(tmp_path / name) == expected, name


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.wav", {}), ("a.flac", {}), ("a.opus", {"format": "OGG", "subtype": "OPUS"}), ("a.mp3", {"format": "MP3"})],
)
def test_a03_truncated(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    path = write_audio(tmp_path / name, 4.0, **options)
    declared = inspect(Piece(path=path)).num_samples
    assert reason(path, declared) == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path, declared) in ("frames_mismatch", "undecodable")
    if name == "a.wav":  # its header says how long it was
        assert reason(path) == "frames_mismatch"


def test_a03_wav_of_unknown_length_is_whole(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "stream.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as written to a pipe
    path.write_bytes(data)
    assert reason(path) == ""
    assert len(read_audio(path)) == 8000


def test_a05_samples_that_are_no_speech(tmp_path: Path) -> None:
    bad = noise(0.5)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        bad[4000] = value
        soundfile.write(tmp_path / f"{name}.wav", bad, 16000, subtype="FLOAT")
        assert reason(tmp_path / f"{name}.wav") == "nonfinite"
    soundfile.write(tmp_path / "zero.wav", np.zeros(8000), 16000)
    assert reason(tmp_path / "zero.wav") == "silent"
    soundfile.write(tmp_path / "loud.wav", np.sign(noise(0.5)), 16000)
    assert inspect(Piece(path=tmp_path / "loud.wav")).clipped


def test_a06_mixed_formats_in_one_set(tmp_path: Path) -> None:
    formats = [(8000, "PCM_16"), (44100, "PCM_24"), (16000, "FLOAT"), (22050, "ULAW"), (48000, "PCM_32")]
    raws = []
    for rate, subtype in formats:
        stereo = np.stack([noise(0.5, 1, rate), noise(0.5, 2, rate)], axis=1)
        soundfile.write(tmp_path / f"{rate}.wav", stereo, rate, subtype=subtype)
        raws.append(RawUtterance(f"s-{rate}", "s", tmp_path / f"{rate}.wav", None))
    write_sets(tmp_path, {"set": raws}, 1)
    data = kaldi_dir.read(tmp_path / "set")
    for utt in data.utterances():
        assert utt.duration == 0.5
        assert utt.num_samples == int(utt.utt_id[2:]) / 2
        samples = read_audio(data.audio_path(utt.rec_id), num_samples=utt.num_samples)
        assert samples.ndim == 1 and abs(len(samples) - 8000) <= 1


def _lying_files(folder: Path) -> list[Path]:
    wav = bytearray(write_audio(folder / "good.wav", 1.0).read_bytes())
    flac = bytearray(write_audio(folder / "good.flac", 1.0).read_bytes())
    rate_and_length = int.from_bytes(flac[18:26], "big")
    lies: dict[str, bytearray] = {name: bytearray(wav) for name in ("hours.wav", "channels.wav", "rate.wav")}
    struct.pack_into("<I", lies["hours.wav"], 4, 2_000_000_036)
    struct.pack_into("<I", lies["hours.wav"], 40, 2_000_000_000)
    struct.pack_into("<HIIH", lies["channels.wav"], 22, 65535, 16000, 16000 * 131070 % 2**32, 65534)
    struct.pack_into("<I", lies["rate.wav"], 24, 0xFFFFFFF0)
    for name, claimed in (("billion.flac", 10**9), ("all.flac", 2**36 - 1), ("unknown.flac", 0)):
        lies[name] = bytearray(flac)
        lies[name][18:26] = (rate_and_length >> 36 << 36 | claimed).to_bytes(8, "big")
    for name, data in lies.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in lies]


def test_a07_absurd_headers_cost_no_memory(tmp_path: Path) -> None:
    program = """
import re, sys
from pathlib import Path
from w2vbert_asr.data.inspection import Piece, inspect
for name in sys.argv[1:]:
    print(Path(name).name, inspect(Piece(path=Path(name))).reason)
# Not ru_maxrss: that also counts the process which this one was forked from.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
    lies = _lying_files(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *map(str, lies)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
    assert dict(line.split() for line in lines[:-1]) == {
        "hours.wav": "frames_mismatch",
        "channels.wav": "undecodable",
        "rate.wav": "undecodable",
        "billion.flac": "undecodable",
        "all.flac": "undecodable",
        "unknown.flac": "undecodable",
    }
    assert int(lines[-1]) < 300


def test_a10_file_replaced_after_preparation(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.flac", 1.0)
    write_sets(tmp_path, {"set": [RawUtterance("s-a", "s", path, "X")]}, 1)
    write_audio(path, 1.1, seed=3)
    utt = kaldi_dir.read(tmp_path / "set").utterances()[0]
    with pytest.raises(AudioError, match="16000 samples declared, 17600 read"):
        read_audio(path, start=utt.start, end=utt.end, num_samples=utt.num_samples)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.wav", {}), ("a.flac", {}), ("a.opus", {"format": "OGG", "subtype": "OPUS"}), ("a.mp3", {"format": "MP3"})],
)
def test_a11_mutated_files_give_samples_or_a_reason(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    """A short run of the audio fuzz."""
    rng = random.Random(3)
    path = write_audio(tmp_path / name, 0.3, **options)
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(min(len(data), rng.choice([64, len(data)])))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(1, len(data))])])
        began = time.monotonic()
        found = inspect(Piece(path=path))
        assert time.monotonic() - began < 5
        assert found.reason or found.num_samples > 0
