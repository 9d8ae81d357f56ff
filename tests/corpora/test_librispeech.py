from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.speech import write_audio
from w2vbert_asr.config import from_dict
from w2vbert_asr.corpora.librispeech import LibriSpeechSet, read
from w2vbert_asr.errors import ConfigError, DataError


def make(root: Path, part: str, speaker: str, chapter: str, num: int, suffix: str = ".flac", text: bool = True) -> None:
    folder = root / "LibriSpeech" / part / speaker / chapter
    folder.mkdir(parents=True)
    ids = [f"{speaker}-{chapter}-{i:04d}" for i in range(num)]
    for utt_id in ids:
        (folder / f"{utt_id}{suffix}").touch()
    if text:
        lines = [f"{utt_id} TEXT OF {utt_id}\n" for utt_id in ids]
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "LibriSpeech").mkdir()
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").write_text("; notes\n")
    make(tmp_path, "train-clean-5", "19", "198", 3, ".opus")
    make(tmp_path, "train-clean-5", "118", "47824", 2)
    make(tmp_path, "train-clean-100", "19", "227", 4)
    make(tmp_path, "train-clean-100", "26", "495", 1, ".WAV")
    make(tmp_path, "dev-clean", "84", "121123", 2)
    return tmp_path


def test_a_set_for_each_part(corpus: Path) -> None:
    for source in (corpus, corpus / "LibriSpeech"):
        sets = read(source)
        assert {name: len(raws) for name, raws in sets.items()} == {
            "dev-clean": 2,
            "train-clean-100": 5,
            "train-clean-5": 5,
        }
    first = sets["train-clean-5"][0]
    assert (first.utt_id, first.speaker, first.text) == ("118-47824-0000", "118", "TEXT OF 118-47824-0000")
    assert first.audio == corpus / "LibriSpeech/train-clean-5/118/47824/118-47824-0000.flac"
    assert {raw.audio.suffix for raw in sets["train-clean-5"]} == {".opus", ".flac"}
    assert sets["train-clean-100"][-1].audio.suffix == ".WAV"


def test_speakers_held_out_across_parts(corpus: Path) -> None:
    sets = {
        "train": LibriSpeechSet(parts=("train-clean-5", "train-clean-100"), exclude_speakers=("19",)),
        "test": from_dict(LibriSpeechSet, {"parts": ["train-clean-5", "train-clean-100"], "speakers": [19]}),
    }
    found = read(corpus, sets)
    assert [raw.speaker for raw in found["train"]] == ["118", "118", "26"]
    assert len(found["test"]) == 7 and {raw.speaker for raw in found["test"]} == {"19"}


def test_gaps_are_passed_on_to_be_listed(corpus: Path) -> None:
    folder = corpus / "LibriSpeech/dev-clean/84/121123"
    (folder / "84-121123-0000.flac").unlink()
    (folder / "84-121123-0009.flac").touch()
    found = {raw.utt_id: (raw.audio.exists(), raw.text is not None) for raw in read(corpus)["dev-clean"]}
    assert found == {
        "84-121123-0000": (False, True),
        "84-121123-0001": (True, True),
        "84-121123-0009": (True, False),
    }


def test_sets_without_text(corpus: Path) -> None:
    make(corpus, "plain", "7", "8", 2, text=False)
    unlabelled = LibriSpeechSet(parts=("plain", "dev-clean"), require_text=False)
    assert [raw.text for raw in read(corpus, {"all": unlabelled})["all"]] == [None] * 4
    with pytest.raises(DataError, match=r"no transcript of 2 utterances.*trans\.txt"):
        read(corpus, {"all": LibriSpeechSet(parts=("plain",))})


def test_of_two_formats_the_lossless_one(corpus: Path) -> None:
    folder = corpus / "LibriSpeech/dev-clean/84/121123"
    for suffix in (".opus", ".wav", ".mp3", ".txt"):
        write_audio(folder / f"84-121123-0000{suffix}", format="WAV")
    assert [raw.audio.suffix for raw in read(corpus)["dev-clean"]] == [".flac", ".flac"]


def test_what_is_missing_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; expected .*<part>/<speaker>/<chapter>"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no test-clean \(found: dev-clean, train-clean-100, train-clean-5\)"):
        read(corpus, {"test": LibriSpeechSet(parts=("test-clean",))})
    with pytest.raises(ConfigError, match=r"sets\.test\.speakers: 20 not in dev-clean"):
        read(corpus, {"test": LibriSpeechSet(parts=("dev-clean",), speakers=("84", "20"))})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no part of LibriSpeech"):
        read(tmp_path / "empty")


def test_a_transcript_twice_is_an_error(corpus: Path) -> None:
    path = corpus / "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt"
    path.write_text(path.read_text() + "84-121123-0000 ANOTHER\n")
    with pytest.raises(DataError, match="duplicate id 84-121123-0000, first on line 1"):
        read(corpus)


def test_contradictions_in_a_set() -> None:
    with pytest.raises(ConfigError, match=r"exclude_speakers: 19 also in speakers"):
        from_dict(LibriSpeechSet, {"parts": ["a"], "speakers": ["19"], "exclude_speakers": ["19"]})
    with pytest.raises(ConfigError, match="at least one part"):
        from_dict(LibriSpeechSet, {"parts": []})
