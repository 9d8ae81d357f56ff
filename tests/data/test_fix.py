from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.data.speech import edit, make_dir, write_audio
from w2vbert_asr.data import kaldi_dir
from w2vbert_asr.data.fix import fix
from w2vbert_asr.data.validate import validate
from w2vbert_asr.errors import DataError


def test_a_good_directory_is_copied(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    (folder / "spk2gender").write_text("s1 m\ns0 f\n")
    assert fix(folder, tmp_path / "deep" / "copy", 1) == {}
    copy = kaldi_dir.read(tmp_path / "deep" / "copy")
    assert copy.utterances() == kaldi_dir.read(folder).utterances()
    assert copy.audio_path("s0-u0").samefile(tmp_path / "audio" / "s0-u0.wav")
    assert (copy.path / "spk2gender").read_text() == "s0 f\ns1 m\n"
    assert (copy.path / "left_out.tsv").read_text() == "utt_id\treason\n"
    assert validate(copy.path, strict=True, num_jobs=1) == []


def test_what_is_bad_is_left_out_with_its_reason(tmp_path: Path) -> None:
    folder = make_dir(tmp_path, 8)
    edit(folder / "text", "s0-u0 WORDS OF S0-U0\n", "")
    edit(folder / "utt2spk", "s1-u1 s1", "s1-u1 s1 s1")
    edit(folder / "wav.scp", "s0-u2 ../audio/s0-u2.wav", "s0-u2 sox x.wav -t wav - |")
    edit(folder / "text", "s1-u3 WORDS", "s1-u5 TWICE\ns1-u3 WORDS")
    (tmp_path / "audio" / "s0-u4.wav").unlink()
    edit(folder / "text", "s0-u6 WORDS OF S0-U6", "s0-u6 CAFE\u0301\x07\u00a0")
    edit(folder / "utt2dur", "s1-u7 0.5", "s1-u7 nan")  # measured anew
    edit(folder / "spk2utt", "s1-u1", "s1-u9")  # made anew
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    left_out = fix(folder, tmp_path / "copy", 1)
    assert {utt_id: reason.split(":")[0] for utt_id, reason in left_out.items()} == {
        "s0-u0": "incomplete",
        "s1-u1": "rejected",
        "s0-u2": "rejected",
        "s0-u4": "missing",
        "s1-u5": "rejected",
    }
    assert "not in text" in left_out["s0-u0"] and "pipes" in left_out["s0-u2"] and "text:" in left_out["s1-u5"]
    copy = kaldi_dir.read(tmp_path / "copy")
    assert [utt.utt_id for utt in copy.utterances()] == ["s0-u6", "s1-u3", "s1-u7"]
    assert copy.text is not None and copy.text["s0-u6"] == "CAF\u00c9"
    assert validate(copy.path, strict=True, num_jobs=1) == []
    lines = (copy.path / "left_out.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["utt_id", "s0-u0", "s0-u2", "s0-u4", "s1-u1", "s1-u5"]
    assert before == {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_small_overruns_of_segments_are_trimmed(tmp_path: Path) -> None:
    write_audio(tmp_path / "rec.wav", 2.0)
    write_audio(tmp_path / "other.wav", 2.0, 1)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text("rec ../rec.wav\nother ../other.wav\ntwice ../rec.wav\ntwice ../other.wav\n")
    pieces = {
        "a": "rec 0 1",
        "b": "rec 1 2.1",
        "c": "rec 1 2.11",
        "d": "other -0.1 1",
        "e": "none 0 1",
        "f": "twice 0 1",
    }
    (folder / "segments").write_text("".join(f"s-{utt} {piece}\n" for utt, piece in pieces.items()))
    (folder / "utt2spk").write_text("".join(f"s-{utt} s\n" for utt in pieces))
    left_out = fix(folder, tmp_path / "copy", 1)
    assert {utt_id: reason.split(":")[0] for utt_id, reason in left_out.items()} == {
        "s-c": "frames_mismatch",
        "s-d": "rejected",
        "s-e": "incomplete",
        "s-f": "incomplete",
    }
    copy = kaldi_dir.read(tmp_path / "copy")
    assert {utt.utt_id: (utt.start, utt.end, utt.duration, utt.num_samples) for utt in copy.utterances()} == {
        "s-a": (0.0, 1.0, 1.0, 16000),
        "s-b": (1.0, 2.0, 1.0, 16000),
    }
    assert list(copy.wav_scp) == ["rec"]
    assert validate(copy.path, strict=True, num_jobs=1) == []


def test_nothing_left_writes_nothing(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    (folder / "utt2spk").unlink()
    with pytest.raises(DataError, match=r"nothing left[\s\S]*4 incomplete"):
        fix(folder, tmp_path / "copy", 1)
    assert not (tmp_path / "copy").exists()


def test_the_original_is_never_replaced(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    with pytest.raises(DataError, match="replace the original"):
        fix(folder, tmp_path / "audio" / ".." / "data", 1)
