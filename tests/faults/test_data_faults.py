"""Rows D01 to D17 and S06 of the table of faults: damaged data directories, through the command line."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.data.speech import edit, make_dir, write_audio
from w2vbert_asr.cli import main
from w2vbert_asr.data import kaldi_dir
from w2vbert_asr.errors import DataError


def refused(path: Path, *parts: str) -> None:
    """Reading refuses the directory with a message that has all `parts`."""
    with pytest.raises(DataError) as error:
        kaldi_dir.read(path)
    for part in parts:
        assert part in str(error.value), (part, str(error.value))


def validate(*paths: Path, options: tuple[str, ...] = ()) -> int:
    return main(["validate", *map(str, paths), "--num-jobs", "1", *options])


def test_d01_duplicate_in_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "text", "s1-u3 WORDS", "s0-u0 AGAIN\ns1-u3 WORDS")
    before = sorted(os.listdir(tmp_path))
    assert validate(folder) == 3
    assert "text:4: duplicate id s0-u0, first on line 1" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == before


def test_d02_duplicate_in_wav_scp(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "wav.scp", "s1-u3 ..", "s0-u0 ../audio/s1-u1.wav\ns1-u3 ..")
    refused(folder, "wav.scp:4: duplicate id s0-u0, first on line 1")
    assert validate(folder) == 3


def test_d03_unsorted_tables_make_the_same_copy(tmp_path: Path) -> None:
    folder = make_dir(tmp_path, 12)
    assert main(["fix", str(folder), "--out", str(tmp_path / "one"), "--num-jobs", "1"]) == 0
    for name in ("wav.scp", "text", "utt2spk", "spk2utt", "utt2dur", "utt2num_samples"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        random.Random(2).shuffle(lines)
        (folder / name).write_text("".join(lines))
    assert validate(folder, options=("--strict",)) == 0
    assert main(["fix", str(folder), "--out", str(tmp_path / "two"), "--num-jobs", "1"]) == 0
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_d04_ids_without_partner(tmp_path: Path) -> None:
    folder = make_dir(tmp_path, 40)
    lines = (folder / "text").read_text().splitlines(keepends=True)
    (folder / "text").write_text("".join(lines[12:]) + "zz WHO\n")
    refused(
        folder, "12 utterance(s) of utt2spk not in text: s0-u0, ", ", ...", "1 utterance(s) of text not in utt2spk: zz"
    )
    assert main(["fix", str(folder), "--out", str(tmp_path / "fixed"), "--num-jobs", "1"]) == 0
    listed = (tmp_path / "fixed" / "left_out.tsv").read_text().splitlines()
    assert len(listed) == 1 + 13
    assert len(kaldi_dir.read(tmp_path / "fixed").utt2spk) == 28


def test_d05_third_field_in_utt2spk(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "utt2spk", "s1-u3 s1", "s1-u3 s1 f")
    refused(folder, "utt2spk:4: s1-u3: expected 2 fields, found 3")
    assert validate(folder) == 3


def test_d06_windows_files_read_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path)
    expected = kaldi_dir.read(folder).utterances()
    for name in ("wav.scp", "text", "utt2spk", "utt2dur"):
        text = (folder / name).read_text()
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.rstrip("\n").replace("\n", "\r\n").encode())
    assert kaldi_dir.read(folder).utterances() == expected
    assert validate(folder, options=("--strict",)) == 0
    out = capsys.readouterr().out
    for note in ("byte order mark", "CRLF", "no line end"):
        assert f"{note}" in out


def test_d07_other_encodings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "text", "WORDS OF S1-U1", "CAFÉ NOIR")
    good = (folder / "text").read_text(encoding="utf-8")
    (folder / "text").write_bytes(good.encode("latin-1"))
    refused(folder, "text:3: byte 10 of the line (0xc9) is not UTF-8", "--encoding")
    assert validate(folder) == 3
    for encoding in ("latin-1", "utf-16"):
        for name in ("wav.scp", "text", "utt2spk", "utt2dur", "utt2num_samples"):
            text = good if name == "text" else (make_dir(tmp_path / "other") / name).read_text()
            (folder / name).write_bytes(text.encode(encoding))
        out = str(tmp_path / encoding)
        assert main(["fix", str(folder), "--out", out, "--encoding", encoding, "--num-jobs", "1"]) == 0
        fixed = kaldi_dir.read(Path(out)).text
        assert fixed is not None and fixed["s1-u1"] == "CAFÉ NOIR"
    refused(folder, "UTF-16", "--encoding utf-16")
    capsys.readouterr()
    assert main(["fix", str(folder), "--out", str(tmp_path / "x"), "--encoding", "klingon"]) == 2


def test_d08_odd_characters_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "text", "WORDS OF S0-U0", "A\u00a0B\u200bC\u202eD CAFE\u0301")
    assert validate(folder) == 0
    assert "1 transcript(s) will be normalised (1 decomposed, 2 invisible, 1 space)" in capsys.readouterr().out
    edit(folder / "text", "WORDS OF S1-U1", "BELL\x07")
    assert validate(folder) == 3


def test_d09_empty_transcript_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "text", " WORDS OF S0-U0", "")
    assert validate(folder, options=("--strict",)) == 0
    assert "1 empty transcript(s), kept: s0-u0" in capsys.readouterr().out
    assert kaldi_dir.read(folder).utterances()[0].text == ""


def test_d10_bad_segments_and_d11_unknown_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path)
    (folder / "utt2num_samples").unlink()
    rows = ["s0-u0 s0-u0 0 0.56", "s0-u2 s0-u2 -0.1 0.5", "s1-u1 s1-u1 0.3 0.3", "s1-u3 nowhere 0 0.5"]
    (folder / "segments").write_text("\n".join(rows) + "\n")
    assert validate(folder) == 3
    out = capsys.readouterr().out
    assert "segments:1: s0-u0" in out and "the file has 0.5" in out
    assert "segments:2: s0-u2: start -0.1 is before the recording" in out
    assert "segments:3: s1-u1: end 0.3 is not after start 0.3" in out
    assert "1 recording(s) of segments not in wav.scp: nowhere" in out
    assert main(["fix", str(folder), "--out", str(tmp_path / "fixed"), "--num-jobs", "1"]) == 0
    fixed = kaldi_dir.read(tmp_path / "fixed").segments
    assert {utt_id: segment.end for utt_id, segment in fixed.items()} == {"s0-u0": 0.5}


def test_d12_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path)
    for path in (tmp_path / "audio").iterdir():
        path.write_bytes(b"")
    assert main(["fix", str(folder), "--out", str(tmp_path / "fixed"), "--num-jobs", "1"]) == 3
    assert "nothing left to write; left out:\n  4 empty" in capsys.readouterr().err
    assert not (tmp_path / "fixed").exists()
    for path in folder.iterdir():
        path.write_text("")
    refused(folder, "nothing left")


def test_d13_malformed_line_is_named(tmp_path: Path) -> None:
    folder = make_dir(tmp_path, 9)
    lines = (folder / "utt2dur").read_text().splitlines()
    lines[6] = lines[6].split()[0]
    (folder / "utt2dur").write_text("\n".join(lines) + "\n")
    refused(folder, "utt2dur:7: ")


@pytest.mark.parametrize("value", ["nan", "-1", "0", "soon", "inf", "1 2"])
@pytest.mark.parametrize("name", ["utt2dur", "utt2num_frames"])
def test_d14_numbers_that_are_none(tmp_path: Path, name: str, value: str) -> None:
    folder = make_dir(tmp_path)
    (folder / "utt2num_frames").write_text("".join(f"{utt} 48\n" for utt in kaldi_dir.read(folder).utt2spk))
    assert kaldi_dir.read(folder).utterances()[0].num_frames == 48
    lines = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join([f"{lines[0].split()[0]} {value}", *lines[1:]]) + "\n")
    refused(folder, f"{name}:1: ")


def test_d15_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [
        "-lead.wav",
        "a b  c.wav",
        "q'\"q.wav",
        "$(touch x).wav",
        "`touch x`.wav",
        "é" * 100 + ".wav",
        "a\u00a0b.wav",
        "#%.wav",
    ]
    folder = Path("-rf $(touch x) '\"") / ("ü" * 100)
    for i, name in enumerate(names):
        write_audio(folder / name, seed=i)
    utts = {f"$(touch-x){i};'\"": name for i, name in enumerate(names)}
    kaldi_dir.write(
        tmp_path / "d; touch x",
        wav_scp={utt_id: str(tmp_path / folder / name) for utt_id, name in utts.items()},
        utt2spk=dict.fromkeys(utts, "$(touch-x)"),
        utt2dur=dict.fromkeys(utts, 0.5),
    )
    assert main(["validate", "./d; touch x", "--strict", "--num-jobs", "2"]) == 0
    assert main(["fix", "./d; touch x", "--out", "./-out", "--num-jobs", "2"]) == 0
    assert len(kaldi_dir.read(Path("-out")).utt2spk) == len(names)
    assert not list(tmp_path.rglob("x"))


def test_d16_things_that_are_no_files_never_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    for kind in ("folder", "loop", "device", "fifo"):
        for name in ("text", "wav.scp", "spk2utt", "spk2gender", "../audio/s0-u0.wav"):
            folder = make_dir(tmp_path / f"{kind} {Path(name).name}")
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(tmp_path / kind)
            began = time.monotonic()
            assert validate(folder) == 3
            assert time.monotonic() - began < 5.0  # milliseconds on a quiet machine; a read would block for ever
            out = capsys.readouterr().out
            assert "not a regular file" in out or "symbolic links" in out


def test_d17_same_audio_under_two_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = make_dir(tmp_path / "train", 4, seed=1), make_dir(tmp_path / "test", 4, seed=2)
    assert validate(train, test, options=("--strict",)) == 0
    (tmp_path / "test" / "audio" / "s1-u3.wav").write_bytes((tmp_path / "train" / "audio" / "s0-u2.wav").read_bytes())
    capsys.readouterr()
    assert validate(train, test) == 0
    assert f"wav.scp:4: s1-u3: the same audio as {train}: s0-u2" in capsys.readouterr().out
    assert validate(train, test, options=("--strict",)) == 3


def test_s06_pipes_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_dir(tmp_path)
    edit(folder / "wav.scp", "s0-u0 ../audio/s0-u0.wav", "s0-u0 echo x > pwned; cat audio/s0-u0.wav |")
    refused(folder, "wav.scp:1: s0-u0: pipes are refused")
    assert validate(folder) == 3
    assert main(["fix", str(folder), "--out", "fixed", "--num-jobs", "1"]) == 0
    assert "s0-u0" not in kaldi_dir.read(Path("fixed")).utt2spk
    assert not list(tmp_path.rglob("pwned"))
