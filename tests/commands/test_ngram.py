"""`w2vbert ngram`: from text to a file that reads back, and mistakes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from w2vbert_asr.cli import main
from w2vbert_asr.text import arpa, tokenizer
from w2vbert_asr.text.ngram import NGramModel, perplexity

TEXTS = ["THE CAT SAT", "THE DOG SAT", "A CAT RAN", "THE CAT AND A DOG RAN"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bpe.model").write_bytes(tokenizer.train(TEXTS, 24))
    (tmp_path / "text").write_text("".join(f"u{number} {text}\n" for number, text in enumerate(TEXTS)))
    (tmp_path / "dev").write_text("u9 THE CAT RAN\nu8\n")
    with gzip.open(tmp_path / "lines.gz", "wt") as handle:
        handle.write("\n".join([*TEXTS, "", "THE  DOG RAN"]) + "\n")
    return tmp_path


def run(folder: Path, *more: object) -> int:
    line = ["ngram", "--tokenizer", folder / "bpe.model", "--out", folder / "lm.arpa", *more]
    return main([str(argument) for argument in line])


def test_a_model_is_written_and_its_perplexity_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "--text", folder / "text", "--lines", folder / "lines.gz", "--dev", folder / "dev", "--order", 3
    assert run(folder, *more, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    pieces = tokenizer.Tokenizer(folder / "bpe.model")
    ngrams = arpa.read(folder / "lm.arpa", pieces.pieces(range(pieces.vocab_size)))
    assert result["ngrams"] == [len(level.keys) for level in ngrams.levels] and len(result["ngrams"]) == 3
    assert result["ngrams"][0] == pieces.vocab_size + 1  # all but blank, and both marks
    assert result["perplexity"] == pytest.approx(
        perplexity(NGramModel(ngrams), [pieces.encode("THE CAT RAN")]), rel=1e-4
    )
    first = (folder / "lm.arpa").read_bytes()
    assert run(folder, *more) == 0 and (folder / "lm.arpa").read_bytes() == first


def test_held_out_speakers_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "text").write_text("s-1-a THE CAT\ns-1-b THE DOG\ns-10-a A CAT\nt-a A DOG\nz SAT\n")
    (folder / "kept").write_text("s-10-a A CAT\nt-a A DOG\n")
    (folder / "out").mkdir()
    (folder / "out/utt2spk").write_text("s-1-c s-1\nz y\n")
    caplog.set_level("INFO")
    assert run(folder, "--text", folder / "text", "--held-out", folder / "out", "--order", 2) == 0
    found = (folder / "lm.arpa").read_bytes()
    assert "3 of 5 transcripts are of held-out speakers" in caplog.text
    assert run(folder, "--text", folder / "kept", "--order", 2) == 0 and (folder / "lm.arpa").read_bytes() == found
    assert run(folder, "--text", folder / "text", "--order", 2) == 0 and (folder / "lm.arpa").read_bytes() != found
    assert run(folder, "--text", folder / "text", "--held-out", folder / "none") == 3


def test_mistakes_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 2 and "give --text" in capsys.readouterr().err
    assert run(folder, "--text", folder / "text", "--order", 0) == 2 and "order" in capsys.readouterr().err
    assert run(folder, "--text", folder / "none") == 3
    (folder / "bad").write_bytes(b"A\n\xff\n")
    capsys.readouterr()
    assert run(folder, "--lines", folder / "bad") == 3 and "line 2: not UTF-8" in capsys.readouterr().err
    cut = (folder / "lines.gz").read_bytes()[:-12]
    (folder / "cut.gz").write_bytes(cut)
    assert run(folder, "--lines", folder / "cut.gz") == 3 and "damaged" in capsys.readouterr().err
    (folder / "empty").write_text("\n\n")
    assert run(folder, "--lines", folder / "empty") == 3 and "empty" in capsys.readouterr().err
    assert not (folder / "lm.arpa").exists()
