from __future__ import annotations

from pathlib import Path

import pytest

from w2vbert_asr.corpora.an4 import dev_speakers, read
from w2vbert_asr.corpora.raw import RawUtterance
from w2vbert_asr.errors import DataError

SPEAKERS = [f"{sex}{name}" for sex in "fm" for name in ("aaa", "bbb", "ccc", "ddd", "eee")]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """10 training speakers with 4 utterances each, 2 test speakers with 3."""
    (tmp_path / "etc").mkdir()
    for name, folder, speakers, num in (
        ("train", "an4_clstk", SPEAKERS, 4),
        ("test", "an4test_clstk", ["fzz", "mzz"], 3),
    ):
        files = [(speaker, f"an{i}-{speaker}-b") for speaker in speakers for i in range(num)]
        (tmp_path / f"etc/an4_{name}.fileids").write_text("".join(f"{folder}/{spk}/{file}\n" for spk, file in files))
        form = "<s> WORDS OF {0} </s> ({0})\n" if name == "train" else "WORDS OF {0} ({0})\n"
        (tmp_path / f"etc/an4_{name}.transcription").write_text("".join(form.format(file) for _, file in files))
        for speaker, file in files:
            path = tmp_path / "wav" / folder / speaker / f"{file}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path


def test_sets(corpus: Path) -> None:
    sets = read(corpus, dev_utterances=8)
    assert {name: len(raws) for name, raws in sets.items()} == {"train_nodev": 32, "train_dev": 8, "test": 6}
    speakers = {name: {raw.speaker for raw in raws} for name, raws in sets.items()}
    assert not speakers["train_nodev"] & speakers["train_dev"]
    assert speakers["train_dev"] == {"fccc", "mccc"}  # spread over the sorted list: one of each
    assert sets["test"][1] == RawUtterance(
        "fzz-an1-b", "fzz", corpus / "wav/an4test_clstk/fzz/an1-fzz-b.flac", "WORDS OF an1-fzz-b"
    )
    assert sets["train_dev"][0].text == "WORDS OF an0-fccc-b"


def test_dev_is_near_the_number_asked_for_and_leaves_something_to_train_on() -> None:
    raws = [RawUtterance(f"{i:02}-{j}", f"{i:02}", Path(), "") for i in range(74) for j in range(10 + i % 7)]
    for num in (1, 50, 100, 300):
        held_out = dev_speakers(raws, num)
        assert abs(sum(raw.speaker in held_out for raw in raws) - num) <= max(0.1 * num, 16)
    assert len(dev_speakers(raws, 10**6)) == 73
    assert dev_speakers(raws[:20], 5) == {"01"}


def test_gaps_are_passed_on_to_be_listed(corpus: Path) -> None:
    (corpus / "wav/an4test_clstk/fzz/an1-fzz-b.flac").unlink()
    path = corpus / "etc/an4_test.transcription"
    path.write_text("\r\n".join(path.read_text().splitlines()[:-1]) + "\r\n\r\n")
    test = read(corpus)["test"]
    assert [raw.audio.exists() for raw in test] == [True, False, True, True, True, True]
    assert [raw.text is None for raw in test] == [False] * 5 + [True]


def test_what_is_wrong_is_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; expected AN4's folders etc/"):
        read(tmp_path / "nowhere")
    path = corpus / "etc/an4_train.transcription"
    good = path.read_text()
    path.write_text(good + "<s> NO ID </s>\n")
    with pytest.raises(DataError, match=r"an4_train\.transcription:41: expected"):
        read(corpus)
    path.write_text(good + good.splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"41: an0-faaa-b a second time"):
        read(corpus)
    path.write_text(good)
    ids = corpus / "etc/an4_train.fileids"
    ids.write_text(ids.read_text() + "../../../etc/passwd/x\n")
    with pytest.raises(DataError, match=r"an4_train\.fileids:41: expected"):
        read(corpus)
    ids.unlink()
    with pytest.raises(DataError, match=r"an4_train\.fileids: cannot be read.*expected AN4"):
        read(corpus)
