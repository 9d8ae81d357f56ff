from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.data.speech import edit, make_dir
from w2vbert_asr.data import kaldi_dir
from w2vbert_asr.data.kaldi_dir import Segment, Utterance
from w2vbert_asr.errors import DataError


def test_round_trip_with_everything(tmp_path: Path) -> None:
    utt2dur = {"é-2": 1 / 3, "a-1": 1e-5, "b-1": 123456.789}
    kaldi_dir.write(
        tmp_path / "d",
        wav_scp={"rec": "/audio/with blank.wav"},
        utt2spk={"é-2": "é", "a-1": "a", "b-1": "b"},
        utt2dur=utt2dur,
        text={"é-2": "", "a-1": "HELLO  WORLD", "b-1": "X"},
        segments={
            "é-2": Segment("rec", 0.1, 0.1 + 1 / 3),
            "a-1": Segment("rec", 0.0, 1e-5),
            "b-1": Segment("rec", 5, 7),
        },
        feats_scp={"é-2": "f.ark:1", "a-1": "f.ark:2", "b-1": "f.ark:3"},
        utt2num_frames={"é-2": 3, "a-1": 1, "b-1": 9},
        num_samples={"é-2": 30, "a-1": 10, "b-1": 90},
        extra={"report.tsv": "x\ty\n"},
    )
    data = kaldi_dir.read(tmp_path / "d")
    assert data.utt2dur == utt2dur
    assert data.spk2utt == {"a": ["a-1"], "b": ["b-1"], "é": ["é-2"]}
    assert [utt.utt_id for utt in data.utterances()] == ["a-1", "b-1", "é-2"]
    assert data.utterances()[2] == Utterance(
        "é-2", "é", "rec", 0.1, 0.1 + 1 / 3, 1 / 3, "", feats="f.ark:1", num_frames=3, num_samples=30
    )
    assert (tmp_path / "d" / "spk2utt").read_text(encoding="utf-8") == "a a-1\nb b-1\né é-2\n"
    assert (tmp_path / "d" / "report.tsv").read_text() == "x\ty\n"


def test_without_segments_text_and_features(tmp_path: Path) -> None:
    kaldi_dir.write(tmp_path / "d", wav_scp={"u": "sub/a.wav"}, utt2spk={"u": "s"}, utt2dur={"u": 2.0})
    data = kaldi_dir.read(tmp_path / "d")
    assert data.utterances() == [Utterance("u", "s", "u", 0.0, None, 2.0, None)]
    assert data.text is None and data.feats_scp is None and data.segments == {}
    assert data.audio_path("u") == tmp_path / "d" / "sub" / "a.wav"
    assert sorted(os.listdir(tmp_path / "d")) == ["spk2utt", "utt2dur", "utt2spk", "wav.scp"]


def test_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    folder = make_dir(tmp_path, 9)
    before = kaldi_dir.read(folder).utterances()
    rng = random.Random(1)
    for name in ("wav.scp", "text", "utt2spk", "utt2dur", "utt2num_samples"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        rng.shuffle(lines)
        (folder / name).write_text("".join(lines))
    assert kaldi_dir.read(folder).utterances() == before


def test_all_mistakes_are_in_one_error(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "utt2spk", "s0-u2 s0", "s0-u2 s0 extra")
    edit(folder / "utt2dur", "s1-u1 0.5", "s1-u1 -0.5")
    edit(folder / "text", "s0-u0", "s9-u0")
    with pytest.raises(DataError) as error:
        kaldi_dir.read(folder)
    for part in ("4 problem(s)", "utt2spk:2", "utt2dur:3", "s9-u0", "s0-u0", "w2vbert fix"):
        assert part in str(error.value)


def test_a_rejected_line_is_not_reported_twice(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    edit(folder / "utt2dur", "s1-u1 0.5", "s1-u1 never")
    problems: list[kaldi_dir.Problem] = []
    kaldi_dir.load(folder, problems)
    assert [(p.kind, p.file, p.line) for p in problems] == [("malformed", "utt2dur", 3)]


def test_missing_directory_and_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="w2vbert prepare"):
        kaldi_dir.read(tmp_path / "none")
    folder = make_dir(tmp_path)
    (folder / "utt2dur").unlink()
    with pytest.raises(DataError, match="utt2dur: missing"):
        kaldi_dir.read(folder)


def test_writing_never_loses_what_is_not_ours(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    again = {"wav_scp": {"u": "a.wav"}, "utt2spk": {"u": "s"}}
    (folder / "thesis.doc").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.doc"):
        kaldi_dir.write(folder, **again, utt2dur={"u": 1.0})
    assert len(kaldi_dir.read(folder).utt2spk) == 4
    (folder / "thesis.doc").unlink()
    kaldi_dir.write(folder, **again, utt2dur={"u": 1.0})
    assert list(kaldi_dir.read(folder).utt2spk) == ["u"]


def test_writing_what_no_line_can_hold_writes_nothing(tmp_path: Path) -> None:
    for bad in ("a b", "", "a\nb"):
        with pytest.raises(DataError, match="does not fit"):
            kaldi_dir.write(tmp_path / "d", wav_scp={bad: "x"}, utt2spk={bad: "s"}, utt2dur={bad: 1.0})
    assert os.listdir(tmp_path) == []
