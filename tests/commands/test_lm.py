"""`w2vbert lm`: training, resuming, its model in a search, and mistakes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.speech import make_dir
from tests.test_documentation import write_tiny_model
from tests.training.runs import finish, start_ranks
from w2vbert_asr import model_folder
from w2vbert_asr.cli import main
from w2vbert_asr.data.lines import LineConfig, LineEvalLoader, Lines
from w2vbert_asr.models.language_model import LanguageModelSteps
from w2vbert_asr.recognizer import load_model
from w2vbert_asr.search import SearchConfig
from w2vbert_asr.text import tokenizer

LINES = ["one two three", "four five six", "one five", "three two one"]
SMALL = [
    *("--set", "model.num_layers=1", "--set", "model.model_dim=16", "--set", "model.num_heads=2"),
    *("--set", "model.feed_forward_dim=32", "--set", "data.row_tokens=40", "--set", "data.batch_rows=2"),
    *("--set", "optimizer.peak_lr=1e-2", "--eval-every", "10", "--device", "cpu"),
]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "model")
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in LINES) * 4)
    (tmp_path / "dev").write_text("u0 one two three\nu1 four five\n")
    return tmp_path


def train(work: Path, *more: object) -> int:
    line = ["lm", "--lines", work / "lines", "--dev", work / "dev", "--tokenizer", work / "model/bpe.model"]
    return main([str(argument) for argument in [*line, "--out", work / "exp", *SMALL, *more]])


def log(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "exp/log.jsonl").read_text().splitlines()]


def test_training_resumes_and_its_model_decodes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(work, "--max-steps", 20) == 0
    assert train(work, "--max-steps", 40, "--allow-change", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    dev = [line for line in log(work) if line["split"] == "dev"]
    assert result["step"] == 40 and dev[-1]["loss"] < 0.7 * dev[0]["loss"]
    assert result["perplexity"] == pytest.approx(math.exp(min(line["loss"] for line in dev)))

    saved = model_folder.read(work / "exp/model")
    model = saved.language_model()
    pieces = tokenizer.Tokenizer(work / "model/bpe.model")
    sentences = [pieces.encode(text) for text in ("one two three", "four five")]
    total = count = 0.0
    for batch in LineEvalLoader(Lines.of(sentences, "dev"), LineConfig(), blank_id=0):
        with torch.no_grad():
            term = model(batch, seed=0, step=0).terms["lm"]
        total, count = total + term.total.item(), count + term.count.item()
    assert math.exp(total / count) == pytest.approx(result["perplexity"], rel=1e-4)
    assert "language model" in (work / "exp/model/README.md").read_text().lower()

    search = SearchConfig(beam_size=3, lm_weight=0.7)
    recognizer = load_model(work / "model", "cpu", search, lm=work / "exp/model")
    steps = LanguageModelSteps(model)
    for own in recognizer.decode([torch.randn(60, 80), torch.randn(90, 80)]):
        for one in own:
            state, expected = steps.start(), 0.0
            for token in (*one.tokens, model.vocab_size):
                expected += 0.7 * steps.log_probs(state)[0, token].item()
                state = steps.advance(state, torch.tensor([token])) if token < model.vocab_size else state
            assert one.lm_score == pytest.approx(expected, abs=1e-4)
    make_dir(work)
    line = ["decode", "--model", work / "model", "--data", work / "data", "--out", work / "found"]
    assert main([str(one) for one in [*line, "--lm", work / "exp", "--lm-weight", 0.5]]) == 0  # the newest checkpoint


def test_mistakes_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "dev").write_text("u0\n")
    assert train(work, "--max-steps", 1) == 3 and "dev: no words" in capsys.readouterr().err
    (work / "dev").write_text("u0 one\n")
    assert train(work, "--max-steps", 1) == 0
    capsys.readouterr()
    (work / "other").mkdir()
    (work / "other/bpe.model").write_bytes(tokenizer.train(LINES, 15))
    files = {model_folder.BPE: work / "other/bpe.model"}
    saved = model_folder.read(work / "exp/model")
    sizes = dict(saved.weights)
    vocab_size = tokenizer.Tokenizer(work / "other/bpe.model").vocab_size
    for name, size in (("embedding.weight", 0), ("output.weight", 1), ("output.bias", 1)):
        sizes[name] = sizes[name][: vocab_size + size]
    model_folder.write(work / "foreign", kind=saved.kind, model=saved.model, weights=sizes, files=files, card="")
    line = ["transcribe", "--model", work / "model", work / "dev", "--lm-weight", "0.5"]

    def said(lm: str) -> str:
        assert main([str(one) for one in [*line, "--lm", work / lm]]) == 2
        return capsys.readouterr().err

    assert "other word pieces" in said("foreign")
    assert "give a language model" in said("model")
    assert main(["transcribe", "--model", str(work / "exp/model"), "x"]) == 2
    assert "language_model model, which cannot transcribe" in capsys.readouterr().err


def test_two_ranks_train_as_one(work: Path) -> None:
    more = "--max-steps", 6, "--set", "model.dropout=0", "--set", "trainer.log_every=1"
    assert train(work, *more) == 0
    one = log(work)
    (work / "exp").rename(work / "of_one")
    ranks = start_ranks(lambda _: os._exit(train(work, *more)), joined=False)
    assert [finish(rank, timeout=120) for rank in ranks] == [0, 0]
    assert len(one) == 7
    for mine, other in zip(one, log(work), strict=True):
        assert mine.pop("split") == other.pop("split")
        assert other == pytest.approx(mine, rel=2e-4, abs=1e-6)
