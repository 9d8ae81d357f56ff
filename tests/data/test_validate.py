from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.speech import edit, make_dir, noise, write_audio
from w2vbert_asr.data.tables import Problem
from w2vbert_asr.data.validate import validate


def check(folder: Path, strict: bool = False) -> list[Problem]:
    return validate(folder, strict=strict, num_jobs=1)


def test_a_good_directory_has_no_problems(tmp_path: Path) -> None:
    assert check(make_dir(tmp_path), strict=True) == []
    assert validate(tmp_path / "data", num_jobs=2) == []


def _clip(folder: Path) -> None:
    soundfile.write(folder / "../audio/s1-u1.wav", np.sign(noise(0.5)), 16000)


def _order(folder: Path) -> None:
    edit(folder / "utt2spk", "s0-u2 s0", "s0-u2 s2")
    edit(folder / "spk2utt", "s0 s0-u0 s0-u2", "s0 s0-u0\ns2 s0-u2")


def _companion(folder: Path) -> None:
    (folder / "spk2gender").write_text("s0 f\ns9 m\n")


# What is done to a good directory, and the one problem that must be reported: kind, severity, file, line, word of it.
PLANTED: dict[str, tuple[Callable[[Path], object], tuple[str, str, str, int | None, str]]] = {
    "spk2utt disagrees": (
        lambda folder: edit(folder / "spk2utt", "s1-u1", "s1-u9"),
        ("spk2utt", "error", "spk2utt", None, "s1"),
    ),
    "no spk2utt": (
        lambda folder: (folder / "spk2utt").unlink(),
        ("missing_table", "error", "spk2utt", None, "missing"),
    ),
    "speaker is no prefix": (_order, ("speaker_order", "warning", "utt2spk", None, "s1")),
    "companion": (_companion, ("companion", "error", "spk2gender", None, "s1, s9")),
    "reserved word": (
        lambda folder: edit(folder / "text", "WORDS OF S0-U2", "<s> WORDS </s>"),
        ("reserved_word", "warning", "text", 2, "s0-u2"),
    ),
    "control character": (
        lambda folder: edit(folder / "text", "WORDS OF S1-U1", "WORDS\x07"),
        ("control_character", "error", "text", 3, "s1-u1"),
    ),
    "decomposed accent": (
        lambda folder: edit(folder / "text", "WORDS OF S1-U1", "CAFE\u0301"),
        ("normalization", "warning", "text", None, "1 decomposed"),
    ),
    "empty transcript": (
        lambda folder: edit(folder / "text", " WORDS OF S1-U1", ""),
        ("empty_text", "note", "text", None, "s1-u1"),
    ),
    "damaged audio": (
        lambda folder: (folder / "../audio/s1-u1.wav").write_text("<html>"),
        ("undecodable", "error", "wav.scp", 3, "s1-u1"),
    ),
    "no audio": (
        lambda folder: (folder / "../audio/s1-u1.wav").unlink(),
        ("missing", "error", "wav.scp", 3, "s1-u1"),
    ),
    "lost its end": (
        lambda folder: write_audio(folder / "../audio/s1-u1.wav", 0.49, 1),
        ("frames_mismatch", "error", "wav.scp", 3, "8000 samples declared, 7840 read"),
    ),
    "clipped": (_clip, ("clipping", "warning", "wav.scp", 3, "full scale")),
    "wrong duration": (
        lambda folder: edit(folder / "utt2dur", "s1-u1 0.5", "s1-u1 0.6"),
        ("duration", "warning", "wav.scp", 3, "0.6"),
    ),
    "same audio": (
        lambda folder: shutil.copy(folder / "../audio/s0-u0.wav", folder / "../audio/s1-u1.wav"),
        ("same_audio", "warning", "wav.scp", 3, "s0-u0"),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    plant, (kind, severity, file, line, word) = PLANTED[name]
    folder = make_dir(tmp_path)
    plant(folder)
    found = check(folder)
    assert [(p.kind, p.severity, p.file, p.line) for p in found] == [(kind, severity, file, line)], found
    assert word in found[0].message
    strict = [p.severity for p in check(folder, strict=True)]
    assert strict == (["note"] if severity == "note" else ["error"])


def test_everything_at_once(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "utt2dur", "s1-u3 0.5", "s1-u3 soon")
    edit(folder / "text", "WORDS OF S1-U1", "WORDS\x07")
    (folder / "../audio/s0-u0.wav").write_bytes(b"")
    (folder / "spk2utt").unlink()
    kinds = sorted(p.kind for p in check(folder))
    assert kinds == ["control_character", "empty", "malformed", "missing_table"]
    assert "empty" not in [p.kind for p in validate(folder, audio=False)]


def test_segments(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    for name in ("utt2spk", "spk2utt", "text", "utt2dur", "utt2num_samples"):
        (folder / name).unlink()
    (folder / "segments").write_text("s0-a s0-u0 0 0.25\ns0-b s0-u0 0.25 0.5\ns1-c s1-u1 0.4 0.55\ns1-d s1-u3 0 0.5\n")
    (folder / "utt2spk").write_text("s0-a s0\ns0-b s0\ns1-c s1\ns1-d s1\n")
    (folder / "spk2utt").write_text("s0 s0-a s0-b\ns1 s1-c s1-d\n")
    (folder / "utt2dur").write_text("s0-a 0.25\ns0-b 0.25\ns1-c 0.15\ns1-d 0.5\n")
    found = [(p.kind, p.severity, p.file, p.line) for p in check(folder)]
    assert found == [
        ("unused_recording", "warning", "wav.scp", None),
        ("frames_mismatch", "error", "segments", 3),
    ]
