"""Rescoring a decoding: the values are the loss's, the ranking is theirs, and a user's mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.speech import edit, make_dir
from tests.test_documentation import write_tiny_model
from w2vbert_asr import load_model
from w2vbert_asr.cli import main
from w2vbert_asr.data.features import FeatureReader


def run(*argv: object) -> int:
    return main([str(argument) for argument in argv])


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "hyp.jsonl").read_text().splitlines()]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A model, data, and its decoding."""
    write_tiny_model(tmp_path / "model")
    make_dir(tmp_path)
    line = ["decode", "--model", tmp_path / "model", "--data", tmp_path / "data", "--out", tmp_path / "decode"]
    assert run(*line, "--beam-size", 6, "--set", "num_best=6") == 0
    return tmp_path


def rescore(work: Path, *more: object) -> int:
    line = ["rescore", "--model", work / "model", "--data", work / "data", "--hyp", work / "decode"]
    return run(*line, "--out", work / "rescored", *more)


def test_every_hypothesis_gets_its_exact_log_probability(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rescore(work, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    decoded, rescored = records(work / "decode"), records(work / "rescored")
    recognizer = load_model(work / "model")
    reader = FeatureReader([work / "data"], online=True)
    model = recognizer.model
    means = {"log_prob": 0.0, "missing": 0.0, "best_log_prob": 0.0}
    for number, (old, new) in enumerate(zip(decoded, rescored, strict=True)):
        feats = recognizer.stats.normalize(reader.load(number))[None]
        encoder_out, _ = model.encode(feats, torch.tensor([feats.shape[1]]))
        exact = {}
        for entry in old["nbest"]:
            ids = entry["token_ids"]
            out = model.decoder(torch.tensor([ids]).long(), torch.tensor([len(ids)]))
            proj = model.joiner.project_encoder(encoder_out)[0], model.joiner.project_decoder(out)[0]
            log_probs = model.joiner(proj[0][:, None], proj[1][None]).double().log_softmax(-1)
            alpha = {(0, 0): torch.zeros((), dtype=torch.float64)}
            for t in range(len(log_probs)):
                for u in range(len(ids) + 1):
                    ways = [alpha[t - 1, u] + log_probs[t - 1, u, 0]] if t else []
                    ways += [alpha[t, u - 1] + log_probs[t, u - 1, ids[u - 1]]] if u else []
                    if ways:
                        alpha[t, u] = torch.stack(ways).logsumexp(0)
            t, u = len(log_probs) - 1, len(ids)
            exact[tuple(ids)] = (alpha[t, u] + log_probs[t, u, 0]).item()
        found = {tuple(entry["token_ids"]): entry["log_prob"] for entry in new["nbest"]}
        assert found == pytest.approx(exact, abs=1e-4) and len(found) == 6
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert new["text"] == new["nbest"][0]["text"]
        assert {name: new[name] for name in ("utt_id", "tokens", "times", "score")} == {
            name: old[name] for name in ("utt_id", "tokens", "times", "score")
        }
        first = exact[tuple(old["nbest"][0]["token_ids"])]
        assert new["log_prob"] == pytest.approx(first, abs=1e-4)
        means["log_prob"] += first / len(decoded)
        means["missing"] += (first - old["score"]) / len(decoded)
        means["best_log_prob"] += max(exact.values()) / len(decoded)
    assert {name: result[name] for name in means} == pytest.approx(means, abs=1e-4)
    texts = dict(line.partition(" ")[::2] for line in (work / "rescored/text").read_text().splitlines())
    assert texts == {one["utt_id"]: one["text"] for one in rescored}


def test_a_better_hypothesis_moves_up(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, decoded = work / "decode/hyp.jsonl", records(work / "decode")
    for record in decoded:
        record["nbest"].reverse()
        record["text"] = record["nbest"][0]["text"]
    path.write_text("".join(json.dumps(record) + "\n" for record in decoded))
    assert rescore(work, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["changed"] > 0
    for old, new in zip(decoded, records(work / "rescored"), strict=True):
        assert new["log_prob"] == next(
            one["log_prob"] for one in new["nbest"] if one["token_ids"] == old["nbest"][0]["token_ids"]
        )


def test_language_models_are_added_as_a_search_adds_them(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a search with the models writes for a hypothesis, and the order that follows from it."""
    for order in (1, 3):
        line = ["ngram", "--text", work / "data/text", "--tokenizer", work / "model/bpe.model", "--order", order]
        assert run(*line, "--out", work / f"{order}.arpa") == 0
    models = ["--lm", work / "3.arpa", "--lm-weight", 0.7, "--lodr", work / "1.arpa", "--lodr-weight", 0.2]
    models += ["--length-reward", 0.3]
    line = ["decode", "--model", work / "model", "--data", work / "data", "--out", work / "fused", *models]
    assert run(*line, "--beam-size", 6, "--set", "num_best=6") == 0
    fused = {
        (record["utt_id"], *entry["token_ids"]): entry["lm_score"]
        for record in records(work / "fused")
        for entry in record["nbest"]
    }
    assert rescore(work, *models) == 0
    common = 0
    for record in records(work / "rescored"):
        ranks = [entry["log_prob"] + entry["lm_score"] for entry in record["nbest"]]
        assert ranks == sorted(ranks, reverse=True) and record["text"] == record["nbest"][0]["text"]
        for entry in record["nbest"]:
            if (key := (record["utt_id"], *entry["token_ids"])) in fused:
                assert entry["lm_score"] == pytest.approx(fused[key], abs=1e-4)
                common += 1
    assert common > 0
    capsys.readouterr()
    assert rescore(work, "--lm-weight", 0.5) == 2 and "--lm" in capsys.readouterr().err


def test_mistakes_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "decode/hyp.jsonl"
    whole = path.read_text()
    lines = whole.splitlines()

    def said() -> str:
        assert rescore(work) == 3
        assert not (work / "rescored").exists()
        return capsys.readouterr().err

    path.write_text("\n".join([*lines[:-1], "{"]) + "\n")
    assert "line 4" in said()
    path.write_text(whole.replace('"token_ids"', '"tokens"'))
    assert "4 line(s) cannot be used" in (found := said()) and "line 2: no 'token_ids'" in found
    path.write_text("\n".join(lines[1:]) + "\n")
    assert f"{json.loads(lines[0])['utt_id']}: not in" in said()
    path.write_text(whole)
    edit(work / "data/text", "s0-u0 ", "s0-u9 ")
    for name in ("wav.scp", "utt2spk", "utt2dur", "utt2num_samples"):
        edit(work / "data" / name, "s0-u0 ", "s0-u9 ")
    edit(work / "data/spk2utt", "s0-u0", "s0-u9")
    found = said()
    assert "s0-u9: not in" in found and "s0-u0: not in" in found
    path.unlink()
    assert "w2vbert decode" in said()


def test_token_ids_of_another_model_are_found(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "decode/hyp.jsonl"
    decoded = records(work / "decode")
    decoded[1]["nbest"][0]["token_ids"] = [4000]
    path.write_text("".join(json.dumps(record) + "\n" for record in decoded))
    assert rescore(work) == 3
    assert "[4000]" in capsys.readouterr().err
