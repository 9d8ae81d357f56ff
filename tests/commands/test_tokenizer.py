"""Stage 2: files, repetition, reports and mistakes."""

import json
from pathlib import Path

import pytest

from w2vbert_asr import cli
from w2vbert_asr.commands.tokenizer import Config, run
from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.text.tokenizer import Tokenizer

LINES = ["b-2 ONE TWO THREE", "a-1 FOUR FIVE", "c-3 SIX SEVEN EIGHT", "d-4"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "train" / "text"
    path.parent.mkdir()
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_files(text: Path, tmp_path: Path) -> None:
    summary = run(Config(text=(text,), out=tmp_path / "tok", vocab_size=30))
    tokenizer = Tokenizer(tmp_path / "tok" / "bpe.model")
    pieces = (tmp_path / "tok" / "vocab.txt").read_text().splitlines()
    assert pieces == tokenizer.pieces(range(30)) and pieces[:2] == ["<blank>", "<unk>"]
    assert summary["vocab_size"] == 30 and summary["digest"] == tokenizer.digest and summary["made"]
    assert tokenizer.decode(tokenizer.encode("SEVEN ONE")) == "SEVEN ONE"


def test_again_and_in_another_order(text: Path, tmp_path: Path) -> None:
    config = Config(text=(text,), out=tmp_path / "tok", vocab_size=30)
    first = run(config)
    changed = (tmp_path / "tok" / "bpe.model").stat().st_mtime_ns
    text.write_text("\r\n".join(reversed(LINES)))
    assert run(config) == first | {"made": False}
    assert (tmp_path / "tok" / "bpe.model").stat().st_mtime_ns == changed
    text.write_text("\n".join(LINES).replace("EIGHT", "NINE"))
    assert run(config)["digest"] != first["digest"]


def test_unseen_characters_are_reported(text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = tmp_path / "text_dev"
    other.write_text("x-1 ONE Q2 QU\u00c4\n")
    summary = run(Config(text=(text,), out=tmp_path / "tok", vocab_size=30, check=(other, text)))
    assert summary["unseen"] == {"2": 1, "Q": 2, "\u00c4": 1}
    assert "'Q' 2 times" in caplog.text
    assert other.read_text() == "x-1 ONE Q2 QU\u00c4\n"


def test_mistakes(text: Path, tmp_path: Path) -> None:
    text.write_text("a-1 ONE\na-1 TWO\n")
    with pytest.raises(DataError, match=r"train/text:2: duplicate id a-1, first on line 1"):
        run(Config(text=(text,), out=tmp_path / "tok"))
    text.write_text("a-1\nb-2\n")
    with pytest.raises(DataError, match="transcripts are empty"):
        run(Config(text=(text,), out=tmp_path / "tok"))
    assert not (tmp_path / "tok").exists()
    text.write_text("a-1 ONE\n")
    with pytest.raises(ConfigError, match="did not write"):
        run(Config(text=(text,), out=text.parent))


def test_command_line(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "tok")
    assert cli.main(["tokenizer", "--text", str(text), "--vocab-size", "5000", "--out", out, "--json"]) == 0
    assert 30 < json.loads(capsys.readouterr().out.splitlines()[-1])["vocab_size"] < 5000
    assert cli.main(["tokenizer", "--text", str(tmp_path / "none"), "--out", out]) == 3
    assert cli.main(["tokenizer", "--text", str(text), "--vocab-size", "0", "--out", out]) == 2
