from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.data.speech import edit, write_audio
from w2vbert_asr.corpora.raw import RawUtterance, write_sets
from w2vbert_asr.data import inspection, kaldi_dir
from w2vbert_asr.data import validate as validation
from w2vbert_asr.data.audio import read_audio
from w2vbert_asr.data.validate import validate
from w2vbert_asr.errors import DataError


def test_one_utterance_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(5):
        write_audio(tmp_path / f"{i}.wav", 0.5 + i / 10, i)
    raws = [
        RawUtterance(f"s{i % 2}-{i}", f"s{i % 2}", Path(f"{i}.wav"), f"  TEXT\u00a0{i} e\u0301\n") for i in range(5)
    ]
    result = write_sets(Path("out"), {"a": raws[:3], "b": raws[3:]}, 2)
    assert result == {
        "a": {"utterances": 3, "speakers": 2, "hours": round(1.8 / 3600, 4), "dropped": {}},
        "b": {"utterances": 2, "speakers": 2, "hours": round(1.7 / 3600, 4), "dropped": {}},
    }
    data = kaldi_dir.read(Path("out/a"))
    assert data.wav_scp["s0-0"] == str(tmp_path / "0.wav")
    assert data.segments == {}
    assert data.text == {f"s{i % 2}-{i}": f"TEXT {i} \u00e9" for i in range(3)}
    assert [utt.duration for utt in data.utterances()] == [0.5, 0.7, 0.6]
    assert (Path("out/a") / "dropped.tsv").read_text() == "utt_id\treason\tdetail\n"
    assert validate(Path("out/a"), strict=True, num_jobs=1) == []


def test_pieces_of_recordings(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_audio(tmp_path / folder / "long rec.wav", 2.0, seed=ord(folder), rate=22050)
    raws = [
        RawUtterance("s-a", "s", tmp_path / "x" / "long rec.wav", None, 0.0, 0.50003),
        RawUtterance("s-b", "s", tmp_path / "x" / "long rec.wav", None, 0.7, None),
        RawUtterance("s-c", "s", tmp_path / "y" / "long rec.wav", None),
        RawUtterance("s-d", "s", tmp_path / "y" / "long rec.wav", None, 1.5, 2.5),
    ]
    result = write_sets(tmp_path / "out", {"set": raws}, 1)
    assert result["set"] == {"utterances": 3, "speakers": 1, "hours": 0.0011, "dropped": {"frames_mismatch": 1}}
    data = kaldi_dir.read(tmp_path / "out" / "set")
    assert data.text is None
    assert data.wav_scp == {
        "long_rec": str(tmp_path / "x" / "long rec.wav"),
        "long_rec-2": str(tmp_path / "y" / "long rec.wav"),
    }
    assert data.num_samples == {"s-a": 11026, "s-b": 28665, "s-c": 44100}
    for utt in data.utterances():
        samples = read_audio(data.audio_path(utt.rec_id), None, utt.start, utt.end, utt.num_samples)
        assert len(samples) == utt.num_samples == round(utt.duration * 22050)
    assert validate(tmp_path / "out" / "set", strict=True, num_jobs=1) == []


def test_unusable_ones_are_listed_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good.wav", "no\nline.wav", "pipe |", "notext.wav", "id.wav"):
        write_audio(tmp_path / name, format="WAV")
    (tmp_path / "web.wav").write_text("<html>")
    raws = [
        RawUtterance("s-good", "s", tmp_path / "good.wav", ""),
        RawUtterance("s-line", "s", tmp_path / "no\nline.wav", "X"),
        RawUtterance("s-pipe", "s", tmp_path / "pipe |", "X"),
        RawUtterance("s-notext", "s", tmp_path / "notext.wav", None),
        RawUtterance("s id", "s", tmp_path / "id.wav", "X"),
        RawUtterance("s-spk", "s s", tmp_path / "id.wav", "X"),
        RawUtterance("s-web", "s", tmp_path / "web.wav", "X"),
        RawUtterance("s-none", "s", tmp_path / "none.wav", "X"),
    ]
    result = write_sets(tmp_path / "out", {"set": raws}, 1)
    assert result["set"] == {
        "utterances": 1,
        "speakers": 1,
        "hours": 0.0001,
        "dropped": {"bad_path": 2, "no_text": 1, "bad_id": 2, "undecodable": 1, "missing": 1},
    }
    rows = [line.split("\t")[:2] for line in (tmp_path / "out/set/dropped.tsv").read_text().splitlines()]
    assert rows == [
        ["utt_id", "reason"],
        ["s id", "bad_id"],
        ["s-line", "bad_path"],
        ["s-none", "missing"],
        ["s-notext", "no_text"],
        ["s-pipe", "bad_path"],
        ["s-spk", "bad_id"],
        ["s-web", "undecodable"],
    ]
    assert "7 of 8 utterances dropped" in capsys.readouterr().err
    assert kaldi_dir.read(tmp_path / "out/set").text == {"s-good": ""}


def test_nothing_left_writes_no_set(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    sets = {
        "good": [RawUtterance("s-a", "s", tmp_path / "a.wav", "X")],
        "bad": [RawUtterance(f"s-{i}", "s", tmp_path / f"none{i}.wav", "X") for i in range(3)],
    }
    with pytest.raises(DataError, match=r"nothing left of 3 utterance\(s\):\s+3 missing: s-0"):
        write_sets(tmp_path / "out", sets, 1)
    assert not (tmp_path / "out").exists()


def test_an_id_twice_is_an_error(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    raws = [RawUtterance("s-a", "s", tmp_path / "a.wav", None)] * 2
    with pytest.raises(DataError, match=r"more than once[\s\S]*s-a"):
        write_sets(tmp_path / "out", {"set": raws}, 1)


def test_shared_speakers_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        write_audio(tmp_path / f"{i}.wav", seed=i)
    raws = [RawUtterance(f"s{i}-x", f"s{i}", tmp_path / f"{i}.wav", None) for i in range(3)]
    write_sets(tmp_path / "out", {"train": raws[:2], "test": raws[1:]}, 1)
    assert "1 speaker(s) in train and in test: s1" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == ["test", "train"]


def test_validate_reads_what_has_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = [write_audio(tmp_path / f"{i}.wav", 1.0, i) for i in range(5)]
    whole = [RawUtterance(f"s-{i}", "s", path, "A") for i, path in enumerate(audio)]
    cut = [RawUtterance(f"s-{i}", "s", audio[0], None, i / 4, (i + 1) / 4) for i in range(4)]
    read: list[tuple[str, float]] = []

    def counted(piece: inspection.Piece) -> inspection.Inspection:
        read.append((piece.path.name, piece.start))
        return inspection.inspect(piece)

    monkeypatch.setattr(validation, "inspect", counted)
    write_sets(tmp_path, {"whole": whole, "cut": cut}, 1)
    seen: dict[bytes, str] = {}
    assert (
        validate(tmp_path / "whole", num_jobs=1, seen=seen) == validate(tmp_path / "cut", num_jobs=1, seen=seen) == []
    )
    assert read == [] and len(seen) == 9
    assert validate(tmp_path / "whole", num_jobs=1, anew=True, seen=seen) == [] and len(read) == len(audio)

    read.clear()
    os.utime(audio[1], (1, 1))
    audio[2].write_bytes(audio[2].read_bytes()[:-4000])  # shorter
    audio[3].unlink()
    write_audio(audio[4], 1.0, seed=0)  # now that of utterance 0, of the same size
    found = {(problem.kind, problem.message.split(":")[0]) for problem in validate(tmp_path / "whole", num_jobs=1)}
    assert [name for name, _ in read] == ["1.wav", "2.wav", "3.wav", "4.wav"]
    assert found == {("frames_mismatch", "s-2"), ("missing", "s-3"), ("same_audio", "s-4")}

    read.clear()
    edit(tmp_path / "cut" / "segments", "s-1 0 0.25 0.5", "s-1 0 0.25 0.45")
    edit(tmp_path / "cut" / "utt2num_samples", "s-2 4000", "s-2 3999")
    record = tmp_path / "cut" / inspection.RECORD
    record.write_text(record.read_text().replace('["s-3", 0.75', '["s-3", "x"'))
    problems = validate(tmp_path / "cut", num_jobs=1)
    assert read == [("0.wav", 0.25), ("0.wav", 0.5), ("0.wav", 0.75)]
    assert [problem.kind for problem in problems].count("frames_mismatch") == 2  # of the third only the record was bad


@pytest.mark.parametrize(
    "line", ["", "[]", "{", "[1, 2]", '["s-0", 0.0, null, "a", "b", 0, 8000, 0, "zz"]', "\x00\xff"]
)
def test_a_damaged_record_counts_for_nothing(tmp_path: Path, line: str) -> None:
    raws = [RawUtterance("s-0", "s", write_audio(tmp_path / "0.wav"), "A")]
    write_sets(tmp_path, {"set": raws}, 1)
    (tmp_path / "set" / inspection.RECORD).write_text(line + "\n", encoding="latin-1")
    assert validate(tmp_path / "set", num_jobs=1) == []
