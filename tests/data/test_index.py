"""The index equals the tables, is made again when a byte of them changes, and gives their errors."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.speech import edit, make_dir
from w2vbert_asr.data import columns, index, kaldi_dir
from w2vbert_asr.data.columns import Table
from w2vbert_asr.data.index import Index, open_index, token_counts
from w2vbert_asr.data.kaldi_dir import INDEX, TOKEN_COUNTS, Segment, Utterance
from w2vbert_asr.data.lazy import Lazy, Strings
from w2vbert_asr.errors import DataError
from w2vbert_asr.text import tokenizer

WORDS = ["", "A", "HELLO  WORLD", "r\u00e9union caf\u00e9", "\u65e5\u672c\u8a9e", "x" * 300]


def random_dir(folder: Path, seed: int) -> Path:
    """A data directory with any of the optional tables, its lines in any order."""
    draw = random.Random(seed)
    count = draw.randint(1, 30)
    speakers = [draw.choice(["s", "é", "S", "日"]) + str(number) for number in range(draw.randint(1, 5))]
    spoken: dict[str, str] = {}
    for number in range(count):
        speaker = draw.choice(speakers)
        spoken[f"{speaker}-{draw.choice(['a', 'é', 'B', ''])}{number}"] = speaker
    ids = list(spoken)
    cut = draw.random() < 0.5
    recordings = [f"r\u00e9c{n}" for n in range(draw.randint(1, 4))] if cut else ids

    def sometimes(value: Callable[[], object]) -> Any:
        return {one: value() for one in ids} if draw.random() < 0.6 else None

    kaldi_dir.write(
        folder,
        wav_scp={one: f"/audio: and/{one}\u00e9 x.wav" for one in recordings},
        utt2spk=spoken,
        utt2dur={one: draw.random() + 1e-9 for one in ids},
        text=sometimes(lambda: draw.choice(WORDS)),
        segments={one: Segment(draw.choice(recordings), t := draw.random(), t + 0.1) for one in ids} if cut else None,
        feats_scp=sometimes(lambda: f"f.{draw.randint(1, 3)}.ark:{draw.randint(0, 10**12)}"),
        utt2num_frames=sometimes(lambda: draw.randint(1, 2**40)),
        num_samples=sometimes(lambda: draw.randint(1, 2**40)),
    )
    for path in folder.iterdir():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        draw.shuffle(lines)
        path.write_text("".join(lines), encoding="utf-8")
    return folder


def utterances(found: Index) -> list[tuple[Utterance, Path]]:
    """The rows of an index as the tables' reader would give them, but for the recording's id; and their audio."""
    return [
        (
            Utterance(
                utt_id=found.utt_ids[n],
                speaker=found.speaker_names[found.speakers[n]],
                rec_id="",
                start=0.0 if found.starts is None else float(found.starts[n]),
                end=None if found.ends is None else float(found.ends[n]),
                duration=float(found.durations[n]),
                text=None if found.texts is None else found.texts[n],
                feats=None if found.feats is None else found.feats[n],
                num_frames=None if found.num_frames is None else int(found.num_frames[n]),
                num_samples=None if found.num_samples is None else int(found.num_samples[n]),
            ),
            found.audio_path(n),
        )
        for n in range(len(found))
    ]


@pytest.mark.parametrize("seed", range(25))
def test_it_equals_the_tables(tmp_path: Path, seed: int) -> None:
    folder = random_dir(tmp_path / "d", seed)
    data = kaldi_dir.read(folder)
    expected = [(Utterance(**{**_fields(one), "rec_id": ""}), data.audio_path(one.rec_id)) for one in data.utterances()]
    assert utterances(open_index(folder)) == expected  # made
    assert (folder / INDEX).is_file()
    assert utterances(open_index(folder)) == expected  # found
    assert list(open_index(folder).speaker_names.between(0, 99)) == sorted(set(data.utt2spk.values()))


def _fields(utterance: Utterance) -> dict[str, object]:
    return {name: getattr(utterance, name) for name in Utterance.__slots__}


def test_it_is_the_same_whichever_way_tables_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        folder = random_dir(tmp_path / f"{seed}", seed)
        open_index(folder)
        at_once = (folder / INDEX).read_bytes()
        (folder / INDEX).unlink()
        with monkeypatch.context() as patched:
            patched.setattr(columns, "_clean", lambda _: None)
            open_index(folder)
        assert (folder / INDEX).read_bytes() == at_once


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_dir(tmp_path)
    first = utterances(open_index(folder))
    content = (folder / INDEX).read_bytes()
    monkeypatch.setattr(kaldi_dir, "read", None)
    assert utterances(open_index(folder)) == first
    os.utime(folder / "text", ns=(0, 0))  # no file is chosen by its time
    assert utterances(open_index(folder)) == first
    monkeypatch.undo()
    (folder / INDEX).unlink()
    open_index(folder)
    assert (folder / INDEX).read_bytes() == content


def test_a_table_changed_under_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    open_index(folder)
    before = os.stat(folder / "text")
    edit(folder / "text", "WORDS OF S0-U2", "WORDS ON S0-U2")
    os.utime(folder / "text", ns=(before.st_atime_ns, before.st_mtime_ns))
    texts = open_index(folder).texts
    assert texts is not None and texts[1] == "WORDS ON S0-U2"
    (folder / "text").unlink()
    assert open_index(folder).texts is None


def test_a_torn_or_foreign_one_is_made_anew(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    expected = utterances(open_index(folder))
    content = (folder / INDEX).read_bytes()
    other = make_dir(tmp_path / "other", seed=1, num_utts=6)
    open_index(other)
    zeros = bytearray(content)
    zeros[len(content) // 2 :] = bytes(len(content) - len(content) // 2)  # as after a power cut
    for damaged in (content[:-1], b"", zeros, (other / INDEX).read_bytes()):
        (folder / INDEX).write_bytes(damaged)
        assert utterances(open_index(folder)) == expected
        assert (folder / INDEX).read_bytes() == content


DEFECTS: dict[str, Callable[[Path], object]] = {
    "malformed": lambda folder: edit(folder / "utt2spk", "s0-u2 s0", "s0-u2 s0 extra"),
    "missing id": lambda folder: edit(folder / "text", "s0-u0", "s9-u0"),
    "missing recording": lambda folder: edit(folder / "wav.scp", "s0-u0 ", "s9-u0 "),
    "unknown recording": lambda folder: (folder / "segments").write_text(
        "".join(f"{one} {'x' if one == 's0-u0' else one} 0 0.5\n" for one in kaldi_dir.read(folder).utt2spk)
    ),
    "nothing": lambda folder: [path.write_text("") for path in folder.iterdir() if path.suffix != ".safetensors"],
    "not UTF-8": lambda folder: (folder / "text").write_bytes(b"s0-u0 \xff\n" + (folder / "text").read_bytes()),
    "missing table": lambda folder: (folder / "wav.scp").unlink(),
    "folder": lambda folder: ((folder / "text").unlink(), (folder / "text").mkdir()),
    "fifo": lambda folder: ((folder / "utt2dur").unlink(), os.mkfifo(folder / "utt2dur")),
    "loop": lambda folder: (folder / "segments").symlink_to("segments"),
    "no folder": lambda folder: folder.rename(folder.with_name("elsewhere")),
}


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("before", [True, False])
def test_errors_are_those_of_the_tables(tmp_path: Path, defect: str, before: bool) -> None:
    folder = make_dir(tmp_path)
    if before:
        open_index(folder)
    DEFECTS[defect](folder)
    with pytest.raises(DataError) as expected:
        kaldi_dir.read(folder)
    with pytest.raises(DataError) as found:
        open_index(folder)
    assert str(found.value) == str(expected.value)


def test_tables_that_change_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_dir(tmp_path)
    read = index.read_columns

    def change_and_read(path: Path) -> Table | None:
        if path.name == "text":
            edit(path, "OF S1-U1", "ON")
        return read(path)

    monkeypatch.setattr(index, "read_columns", change_and_read)
    with pytest.raises(DataError, match="changed while they were read"):
        open_index(folder)
    assert not (folder / INDEX).exists()


def test_a_data_directory_with_one_may_be_replaced(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    open_index(folder)
    (folder / f".{INDEX}.partial").write_bytes(b"left by a killed process")
    make_dir(tmp_path, num_utts=6)
    assert not (folder / INDEX).exists() and len(open_index(folder)) == 6


def test_word_pieces_are_counted_once_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_TEXTS_AT_ONCE", 3)
    folder = make_dir(tmp_path, 10)
    edit(folder / "text", " WORDS OF S0-U0", "")
    found = open_index(folder)
    for size in (20, 30):
        (tmp_path / "bpe.model").write_bytes(tokenizer.train([f"WORDS OF S{n}-U" for n in range(10)], size))
        model = tokenizer.Tokenizer(tmp_path / "bpe.model")
        assert found.texts is not None
        expected = [len(model.encode(found.texts[n])) for n in range(10)]
        assert token_counts(found, model).tolist() == expected and expected[0] == 0
        with monkeypatch.context() as patched:
            patched.setattr(tokenizer.Tokenizer, "count", None)
            assert token_counts(open_index(folder), model).tolist() == expected
    assert (folder / TOKEN_COUNTS).is_file()


def test_strings_and_lazy_sequences() -> None:
    packed = Strings.pack(WORDS)
    assert [packed[n] for n in range(len(packed))] == WORDS == packed.between(0, len(WORDS))
    assert packed.between(2, 4) == WORDS[2:4] and packed.between(3, 3) == [] and len(Strings.pack([])) == 0
    squares = Lazy(5, lambda number: number**2)
    assert list(squares) == [0, 1, 4, 9, 16] == squares[:] and squares[-1] == 16 and squares[1:3] == [1, 4]
    assert squares[np.int64(2)] == 4 and 9 in squares and squares.index(9) == 3
    with pytest.raises(IndexError):
        squares[5]
