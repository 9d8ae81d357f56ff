"""Folders of audio and tables of transcripts as people have them, and what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2vbert_asr.corpora.folder import FolderConfig, read
from w2vbert_asr.corpora.holdout import hold_out
from w2vbert_asr.corpora.raw import RawUtterance, write_sets
from w2vbert_asr.corpora.transcripts import read_rows
from w2vbert_asr.errors import ConfigError, DataError


@pytest.fixture
def audio(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder with these (empty) audio files."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "corpus"

    return make


def rows(
    tmp_path: Path, contents: str | bytes, name: str = "table.csv", encoding: str = "utf-8"
) -> list[tuple[object, ...]]:
    path = tmp_path / name
    path.write_bytes(contents.encode(encoding) if isinstance(contents, str) else contents)
    return [(row.line, row.audio, row.text, row.speaker) for row in read_rows(path, encoding)]


def texts(sets: dict[str, list[RawUtterance]]) -> dict[str, str | None]:
    return {raw.utt_id: raw.text for utterances in sets.values() for raw in utterances}


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ("a.wav\tHi, you; all\nb.wav\tBye, now; so\n", [(1, "a.wav", "Hi, you; all"), (2, "b.wav", "Bye, now; so")]),
        ("LJ1|Dr. \"X\"|doctor x\nLJ2|1, 2|one two", [(1, "LJ1", "doctor x"), (2, "LJ2", "one two")]),
        ("a,one\n\nb,two\n", [(1, "a", "one"), (3, "b", "two")]),
        ('a,"one, two"\nb,"say ""hi"""\n', [(1, "a", "one, two"), (2, "b", 'say "hi"')]),
        ("a;one, two\nb;three, four\n", [(1, "a", "one, two"), (2, "b", "three, four")]),
        ("\ufeffa\tone\r\nb\ttwo\r\n", [(1, "a", "one"), (2, "b", "two")]),
    ],
)  # fmt: skip
def test_delimiters_without_a_header(tmp_path: Path, contents: str, expected: list[tuple[int, str, str]]) -> None:
    assert rows(tmp_path, contents) == [(*row, None) for row in expected]


def test_a_quoted_field_over_two_lines_keeps_line_numbers(tmp_path: Path) -> None:
    assert rows(tmp_path, 'a,"one\ntwo"\nb,three\n') == [(1, "a", "one\ntwo", None), (3, "b", "three", None)]


def test_columns_by_name(tmp_path: Path) -> None:
    contents = "client_id\tpath\tsentence\tup_votes\nann\tx.mp3\tYes.\t2\n\ty.mp3\tNo.\t0\n"
    assert rows(tmp_path, contents) == [(2, "x.mp3", "Yes.", "ann"), (3, "y.mp3", "No.", None)]
    assert rows(tmp_path, "ID|Text|Normalized_Text\nx|1|one\n") == [(2, "x", "one", None)]


def test_json_lines(tmp_path: Path) -> None:
    records = [
        {"audio_filepath": "/data/x.wav", "duration": 3.0, "text": "yes"},
        {"file": "y.wav", "sentence": "no", "speaker": 7},
        {"audio": "z", "transcript": "", "speaker": "bob"},
    ]
    contents = "\n".join(map(json.dumps, records)) + "\n"
    expected = [(1, "/data/x.wav", "yes", None), (2, "y.wav", "no", "7"), (3, "z", "", "bob")]
    assert rows(tmp_path, contents, "m.jsonl") == expected == rows(tmp_path, contents, "manifest.json")


@pytest.mark.parametrize(
    ("contents", "name", "messages"),
    [
        (
            "a|x\nb\nc|y\nd|y|z\n|w\n",
            "t.csv",
            ["line 2: expected 2 fields, found 1", "line 4: expected 2 fields, found 3", "line 5: no file name"],
        ),
        ("a,x\nb,y, z\n", "t.csv", ["line 2: expected 2 fields, found 3; quote what holds the delimiter"]),
        ('a,x\nb,"y\n', "t.csv", ["line 2: unexpected end of data"]),
        ("a b c\n", "t.tsv", ["line 1: no tab"]),
        (
            '{"file": "a", "text": "x"}\n{"file": "a"\n[1]\n{"text": "x"}\n{"file": "b", "text": 3}\n',
            "t.jsonl",
            ["line 2: not JSON", "line 3: expected an object", "line 4: no file name", "line 5: no text"],
        ),
        ("[" * 100000 + "\n", "t.jsonl", ["line 1: "]),
        ("\n", "t.tsv", ["no rows"]),
        (
            b"a|caf\xe9\nb|x\nc|\xff\n",
            "t.csv",
            ["line 1, byte 6: 0xe9 is not UTF-8", "line 3, byte 3: 0xff", "encoding=latin-1"],
        ),
        ("a|x\n".encode("utf-16"), "t.csv", [":1: byte 1 is 0xff: UTF-16"]),
    ],
)
def test_malformed_lines_are_reported_together(
    tmp_path: Path, contents: str | bytes, name: str, messages: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        rows(tmp_path, contents, name)
    assert name in str(error.value)
    assert [message for message in messages if message not in str(error.value)] == []


def test_another_encoding(tmp_path: Path) -> None:
    assert rows(tmp_path, "a|café\n", encoding="latin-1") == [(1, "a", "café", None)]
    assert rows(tmp_path, "a|café\n", encoding="utf-16") == [(1, "a", "café", None)]


# --- folders ----------------------------------------------------------------------------------------------------------


def test_the_layout_of_ljspeech(audio: Callable[..., Path]) -> None:
    source = audio("wavs/LJ001-0001.flac", "wavs/LJ001-0002.flac")
    (source / "metadata.csv").write_text("LJ001-0001|It’s 2.|It’s, two.\nLJ001-0002|B|Well-known “B”!\n")
    assert texts(read(source)) == {"corpus-wavs.LJ001-0001": "it's two", "corpus-wavs.LJ001-0002": "well-known b"}
    upper = read(source, config=FolderConfig(text_style="upper", set_name="all"))["all"]
    assert [raw.text for raw in upper] == ["IT’S, TWO.", "WELL-KNOWN “B”!"]
    assert {raw.speaker for raw in upper} == {"corpus"} and upper[0].audio == source / "wavs/LJ001-0001.flac"


def test_speakers_of_files(audio: Callable[..., Path]) -> None:
    source = audio(
        "84-121-0000.wav", "x/84-121-0001.wav", "ann/wav/a.ogg", "ann/two/b.MP3", "Zoë B/c.d.wav", ".hidden.wav"
    )
    found = read(source, config=FolderConfig(unlabelled=True, set_name="own"))["own"]
    assert {raw.utt_id: raw.speaker for raw in found} == {
        "84-84-121-0000": "84",
        "84-x.84-121-0001": "84",
        "ann-ann.wav.a": "ann",
        "ann-two-ann.two.b": "ann-two",
        "Zoë%20B-Zoë%20B.c%2Ed": "Zoë%20B",
    }
    assert all(raw.text is None for raw in found)


def test_utterance_ids_are_unique_and_have_no_blanks(audio: Callable[..., Path]) -> None:
    names = ["a/b-c.wav", "a-b/c.wav", "a b/c.wav", "a%20b/c.wav", "a/b.c.wav", "a/b/c.wav", "$(touch x)/-r 'q'.wav"]
    found = texts(read(audio(*names), config=FolderConfig(unlabelled=True)))
    assert len(found) == len(names) and not any(" " in utt_id or "/" in utt_id for utt_id in found)


def test_a_file_in_two_formats_is_one_utterance(audio: Callable[..., Path]) -> None:
    found = read(audio("a.mp3", "a.flac", "a.wav", "b.mp3"), config=FolderConfig(unlabelled=True))["train"]
    assert [raw.audio.name for raw in found] == ["a.flac", "b.mp3"]


def test_rows_name_files_in_many_ways(audio: Callable[..., Path], tmp_path: Path) -> None:
    source = audio("s1/a.wav", "s1/b.wav", "s2/c.opus", "d.wav", "s1/e.wav", "s2/d.wav")
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "own.tsv"
    lines = [f"{source}/s1/a.wav\tone", "s1\\b.wav\ttwo", "/elsewhere/c.wav\tthree", "d\tfour", "../corpus/s1/e\tfive"]
    table.write_text("\n".join(lines))
    found = {raw.audio.relative_to(source).as_posix(): raw.text for raw in read(source, table)["train"]}
    assert found == {
        "d.wav": "four",
        "s1/a.wav": "one",
        "s1/b.wav": "two",
        "s1/e.wav": "five",
        "s2/c.opus": "three",
        "s2/d.wav": None,
    }


def test_decomposed_names_meet_composed_ones(audio: Callable[..., Path]) -> None:
    source = audio("cafe\u0301.wav")
    (source / "metadata.csv").write_text("caf\u00e9.wav|x\n")
    assert list(texts(read(source)).values()) == ["x"]


def test_ambiguous_and_contradictory_rows_are_errors(audio: Callable[..., Path]) -> None:
    source = audio("s1/a.wav", "s2/a.wav", "s1/b.wav")
    (source / "transcripts.tsv").write_text("a\tone\ns1/b.wav\ttwo\nb.wav\ttwo\nb\tthree\n")
    with pytest.raises(DataError, match="2 contradictory") as error:
        read(source)
    assert "line 1: a may be any of 2 files (s1/a.wav, s2/a.wav)" in str(error.value)
    assert "line 4: b is on line 2 with something else" in str(error.value)


def test_what_has_no_partner_is_listed_and_never_fatal(tmp_path: Path) -> None:
    source = tmp_path / "own"
    source.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, (6, 8000))
    for i, samples in enumerate(noise):
        soundfile.write(source / f"{i}.wav", samples, 16000)
    lines = [f"{i}.wav\tsentence {i}" for i in range(4)] + ["4.wav\t?!", "../gone.wav\tlost", "/gone/too\tlost"]
    (source / "table.tsv").write_text("\n".join(lines))
    sets = read(source, config=FolderConfig(dev_share=0.25, test_share=0.25))
    summary = write_sets(tmp_path / "data", sets, num_jobs=1)
    counts = {name: found["utterances"] for name, found in summary.items() if isinstance(found, dict)}
    assert counts == {"train": 2, "dev": 1, "test": 1}
    dropped = (tmp_path / "data" / "train" / "dropped.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[:2] for line in dropped] == [
        ["gone-missing-gone.too", "missing"],
        ["own-4", "no_text"],
        ["own-5", "no_text"],
        ["own-missing-gone", "missing"],
    ]


def test_folders_that_cannot_be_used(audio: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "nowhere")
    source = audio("a.wav")
    with pytest.raises(DataError, match=r"no table of transcripts.*--table"):
        read(source)
    (source / "one.tsv").write_text("x\ty\n")
    with pytest.raises(DataError, match="nothing left: no row"):
        read(source)
    (source / "two.csv").write_text("x,y\n")
    with pytest.raises(DataError, match=r"2 tables \(one.tsv, two.csv\)"):
        read(source)
    with pytest.raises(DataError, match="cannot be read"):
        read(source, source / "three.csv")
    with pytest.raises(ConfigError, match="unlabelled"):
        read(source, source / "one.tsv", FolderConfig(unlabelled=True))
    (source / "a.wav").unlink()
    with pytest.raises(DataError, match="no audio"):
        read(source, config=FolderConfig(unlabelled=True))


def test_links_are_followed_and_loops_end(audio: Callable[..., Path], tmp_path: Path) -> None:
    source = audio("a.wav")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "b.wav").touch()
    (source / "linked").symlink_to(tmp_path / "disk")
    (source / "loop").symlink_to(source)
    (tmp_path / "disk" / "up").symlink_to(source)
    os.mkfifo(source / "pipe.wav")
    found = read(source, config=FolderConfig(unlabelled=True))["train"]
    assert [raw.audio.name for raw in found] == ["a.wav", "b.wav"]


def test_wrong_settings_are_reported_together() -> None:
    config = FolderConfig(dev_share=0.6, test_share=0.4, set_name="dev", encoding="klingon")
    assert [problem.split(":")[0] for problem in config.problems()] == ["dev_share, test_share", "set_name", "encoding"]
    assert FolderConfig(dev_share=0.1).problems() == FolderConfig(set_name="dev").problems() == []


# --- splits -----------------------------------------------------------------------------------------------------------


def utterances(sizes: dict[str, int]) -> list[RawUtterance]:
    return [
        RawUtterance(f"{name}-{i}", name, Path(f"{name}-{i}"), f"say {i % 10}")
        for name, count in sizes.items()
        for i in range(count)
    ]


def test_held_out_sets_are_whole_speakers_of_about_the_share() -> None:
    raws = utterances({f"s{i}": 5 + i % 7 for i in range(60)})
    sets = hold_out(raws, {"dev": 0.1, "test": 0.2}, "train")
    speakers = {name: {raw.speaker for raw in sets[name]} for name in sets}
    assert sum(map(len, speakers.values())) == 60 == len(set.union(*speakers.values()))
    assert 0.07 < len(sets["dev"]) / len(raws) <= 0.1 and 0.17 < len(sets["test"]) / len(raws) <= 0.2
    assert sorted(raw.utt_id for found in sets.values() for raw in found) == sorted(raw.utt_id for raw in raws)
    again = hold_out(raws[::-1], {"dev": 0.1, "test": 0.2}, "train")
    assert {name: {raw.utt_id for raw in sets[name]} for name in sets} == {
        name: {raw.utt_id for raw in again[name]} for name in again
    }


def test_a_dominant_speaker_stays_in_training() -> None:
    sets = hold_out(utterances({"big": 100, "a": 3, "b": 2, "c": 4}), {"dev": 0.01, "test": 0.01}, "train")
    assert {name: {raw.speaker for raw in sets[name]} for name in sets} == {
        "train": {"big", "c"},
        "dev": {"b"},
        "test": {"a"},
    }


def test_one_speaker_is_split_by_sentence_and_no_sentence_is_in_two_sets() -> None:
    sets = hold_out(utterances({"only": 100}), {"dev": 0.1, "test": 0.2}, "train")
    said = [{raw.text for raw in found} for found in sets.values()]
    assert [len(found) for found in sets.values()] == [70, 10, 20]
    assert sum(map(len, said)) == len(set.union(*said)) == 10


def test_too_little_for_three_sets() -> None:
    with pytest.raises(DataError, match="not enough for 3 sets"):
        hold_out(utterances({"a": 1, "b": 1}), {"dev": 0.1, "test": 0.1}, "train")
