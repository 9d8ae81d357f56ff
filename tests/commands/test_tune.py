"""Decoding with language models from the command line, and the search for their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.speech import make_dir
from tests.test_documentation import write_tiny_model
from w2vbert_asr.cli import main
from w2vbert_asr.models.transducer import Transducer
from w2vbert_asr.scoring.error_counts import count_errors, total


def run(*argv: object) -> int:
    return main([str(argument) for argument in argv])


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "hyp.jsonl").read_text().splitlines()]


def texts(path: Path) -> dict[str, str]:
    return {line.split(" ")[0]: line.partition(" ")[2] for line in path.read_text().splitlines()}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A model, data, and two n-gram models. Its text is what the model finds with a length reward."""
    write_tiny_model(tmp_path / "model")
    make_dir(tmp_path)
    (tmp_path / "lines").write_text("one two three\nfour five six\none five\n")
    for order in (2, 3):
        line = ["ngram", "--tokenizer", tmp_path / "model/bpe.model", "--lines", tmp_path / "lines"]
        assert run(*line, "--order", order, "--out", tmp_path / f"{order}.arpa") == 0
    assert decode(tmp_path, "reference", "--length-reward", 1.5) == 0
    (tmp_path / "data/text").write_bytes((tmp_path / "reference/text").read_bytes())
    return tmp_path


def decode(work: Path, out: str, *more: object) -> int:
    line = ["decode", "--model", work / "model", "--data", work / "data", "--out", work / out, "--set", "num_best=6"]
    return run(*line, *more)


def test_decoding_with_models(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decode(work, "plain") == 0
    assert decode(work, "zero", "--lm", work / "3.arpa", "--lm-weight", 0) == 0
    assert records(work / "plain") == records(work / "zero")
    assert all(entry["lm_score"] == 0 for record in records(work / "plain") for entry in record["nbest"])
    more = "--lm", work / "3.arpa", "--lm-weight", 0.8, "--lodr", work / "2.arpa", "--lodr-weight", 0.1
    assert decode(work, "fused", *more, "--length-reward", 0.5) == 0
    fused = records(work / "fused")
    assert fused != records(work / "plain")
    for record in fused:
        sums = [entry["score"] + entry["lm_score"] for entry in record["nbest"]]
        assert sums == sorted(sums, reverse=True) and record["score"] == record["nbest"][0]["score"]
    line = ["rescore", "--model", work / "model", "--data", work / "data", "--hyp", work / "fused"]
    assert run(*line, "--out", work / "rescored") == 0
    for record in records(work / "rescored"):
        sums = [entry["log_prob"] + entry["lm_score"] for entry in record["nbest"]]
        assert sums == sorted(sums, reverse=True)

    capsys.readouterr()
    assert decode(work, "x", "--lm-weight", 0.5) == 2 and "give --lm" in capsys.readouterr().err
    assert decode(work, "x", "--search", "greedy", "--lm", work / "3.arpa", "--lm-weight", 0.5) == 2
    assert "greedy" in capsys.readouterr().err
    assert decode(work, "x", "--lm", work / "data/text", "--lm-weight", 0.5) == 3


def tune(work: Path, *more: object) -> int:
    line = [
        "tune",
        "--model",
        work / "model",
        "--data",
        work / "data",
        "--lm",
        work / "3.arpa",
        "--out",
        work / "tuned",
    ]
    return run(*line, "--lm-weights", 0, 0.4, 0.8, "--length-rewards", 0, 1.5, *more)


def test_the_table_is_what_decoding_gives(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], Transducer.encode
    monkeypatch.setattr(Transducer, "encode", lambda *args: (encoded.append(1), encode(*args))[1])
    assert tune(work, "--lodr", work / "2.arpa", "--lodr-weight", 0.05, "--beam-size", 4, "--json") == 0
    assert len(encoded) == 1  # all four utterances are one batch
    out = capsys.readouterr().out.splitlines()
    result = json.loads(out[-1])
    assert result == json.loads((work / "tuned/tune.json").read_text())
    assert (work / "tuned/tune.png").read_bytes()[:4] == b"\x89PNG"
    refs = texts(work / "data/text")
    wers = {}
    for number, entry in enumerate(result["tried"]):
        weight, reward = entry["lm_weight"], entry["length_reward"]
        more = ["--lm", work / "3.arpa", "--lm-weight", weight, "--length-reward", reward, "--beam-size", 4]
        assert decode(work, str(number), *more, "--lodr", work / "2.arpa", "--lodr-weight", 0.05) == 0
        wers[weight, reward] = total(count_errors(refs, texts(work / str(number) / "text")).values()).wer
        assert entry["wer"] == pytest.approx(wers[weight, reward])
    assert list(wers) == [(0, 0), (0, 1.5), (0.4, 0), (0.4, 1.5), (0.8, 0), (0.8, 1.5)]
    assert len(set(wers.values())) > 1
    best = min(wers, key=lambda point: (wers[point], *point))
    assert (result["best"]["lm_weight"], result["best"]["length_reward"]) == best
    rows = [line.split() for line in out if line.startswith("    ")]
    assert [row[1:] for row in rows[1:]] == [[f"{wers[w, r]:.2f}" for r in (0, 1.5)] for w in (0, 0.4, 0.8)]

    line = ["decode", "--config", work / "tuned/decode.yaml", "--model", work / "model", "--data", work / "data"]
    assert run(*line, "--out", work / "again") == 0
    assert total(count_errors(refs, texts(work / "again/text")).values()).wer == pytest.approx(min(wers.values()))


def test_mistakes_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(work, "--search", "greedy") == 2 and "use beam" in capsys.readouterr().err
    assert tune(work, "--lm-weights", 0.5, 0.1) == 2 and "lm_weights: expected different" in capsys.readouterr().err
    assert tune(work, "--lm-weights", -0.5, 0.1) == 2 and "-0.5 is negative" in capsys.readouterr().err
    assert tune(work, "--lodr-weight", 0.5) == 2 and "give --lodr" in capsys.readouterr().err
    (work / "data/text").unlink()
    assert tune(work) == 3 and "text" in capsys.readouterr().err
    assert not (work / "tuned").exists()
