"""A past step made again equals the one in the log, and says what was in it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tools import soak
from w2vbert_asr.cli import main
from w2vbert_asr.commands import replay
from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.modules.spans import SpanMaskConfig, draw_span_mask
from w2vbert_asr.training import nonfinite
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.update import Update

LOGGED = [f"--set=trainer.{key}" for key in ("max_steps=9", "save_every=4", "log_every=1", "keep=9", "accumulate=2")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy corpus, a pre-training and a fine-tuning on it."""
    toy = soak.make_toy(tmp_path_factory.mktemp("replay"))
    call(*toy.line("pretrain", toy.root / "pre", *LOGGED))
    call(*toy.line("finetune", toy.root / "asr", *LOGGED, "--init", toy.root / "pre/model"))
    return toy.root


def call(*argv: object) -> None:
    assert main([str(argument) for argument in argv]) == 0, argv


def log_of(exp: Path, step: int) -> dict[str, float]:
    lines = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return next(line for line in lines if line["step"] == step and line["split"] == "train")


@pytest.mark.parametrize("name", ["pre", "asr"])
@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_a_step_again_is_the_step_of_the_log(work: Path, tmp_path: Path, name: str, step: int) -> None:
    exp = work / name
    files = {path: path.read_bytes() for path in exp.rglob("*") if path.is_file()}
    found = replay.run(replay.Config(exp=exp, step=step, out=tmp_path / "out"))
    logged = log_of(exp, step)
    assert found["grad_norm"] == pytest.approx(logged["grad_norm"], rel=1e-7)
    rate = found["learning_rates"]["lr" if name == "pre" else "lr_encoder"]
    assert rate == pytest.approx(logged["lr" if name == "pre" else "lr_encoder"], rel=1e-7)
    terms = [micro["terms"] for micro in found["micro_batches"]]
    assert len(terms) == 2  # accumulated
    for term in terms[0]:
        mean = sum(one[term]["total"] for one in terms) / sum(one[term]["count"] for one in terms)
        assert mean == pytest.approx(logged[term], rel=1e-6)
    for micro in found["micro_batches"]:
        for term, sums in micro["terms"].items():
            if term != "diversity":
                parts = [item["losses"][term] for item in micro["items"]]
                assert sum(parts) == pytest.approx(sums["total"], rel=1e-5)
    assert json.loads((tmp_path / "out/replay.json").read_text()) == found
    assert {path: path.read_bytes() for path in exp.rglob("*") if path.is_file()} == files


def test_the_tensors_are_what_the_model_saw(work: Path, tmp_path: Path) -> None:
    found = replay.run(replay.Config(exp=work / "pre", step=6, out=tmp_path / "out"))
    for micro, one in enumerate(found["micro_batches"]):
        tensors = load_file(tmp_path / f"out/micro-{micro:03d}.safetensors")
        items = one["items"]
        assert [round(item["duration"] * 100) for item in items] == tensors["feat_lens"].tolist()
        for item in items:
            assert sum(piece["end"] - piece["start"] for piece in item["pieces"]) == pytest.approx(item["duration"])
        lens = (tensors["feat_lens"] + 3) // 4
        utt_ids = [item["utt_id"] for item in items]
        mask = draw_span_mask(lens, tensors["span_mask"].shape[1], utt_ids, 1, 5, SpanMaskConfig())
        assert torch.equal(tensors["span_mask"], mask)
        masked = (tensors["masked_frames"] >= 0).sum(1)
        assert masked.tolist() == mask.sum(1).tolist()
        chosen = tensors["distractors"].sum(2)
        assert all(
            (row[:size] == min(size - 1, 100)).all() for row, size in zip(chosen, masked.tolist(), strict=True) if size
        )
        assert tensors["codes"].max() < 16


def test_without_an_older_checkpoint_it_begins_at_the_start(work: Path, tmp_path: Path) -> None:
    assert not (work / "asr/checkpoints/step-00000000").exists()
    call("replay", "--exp", work / "asr", "--step", 3, "--out", tmp_path / "out", "--json")
    found = json.loads((tmp_path / "out/replay.json").read_text())
    assert found["grad_norm"] == pytest.approx(log_of(work / "asr", 3)["grad_norm"], rel=1e-7)


def test_another_seed_would_be_noticed(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2vbert_asr.modules.spans.uniform", lambda keys, frames: (keys * 0 + frames * 0) + 0.5)
    found = replay.run(replay.Config(exp=work / "pre", step=5, out=tmp_path / "out"))
    assert found["grad_norm"] != pytest.approx(log_of(work / "pre", 5)["grad_norm"], rel=1e-3)


def test_a_bundle_names_the_utterance_that_is_not_finite(work: Path, tmp_path: Path) -> None:
    assembly, _ = replay._assemble(work / "asr", 5, True, World())
    batches = [assembly.loader[8], assembly.loader[9]]
    batches[1].feats[1, 3:9] = torch.nan
    bad = Update(outputs=[], loss=float("nan"), grad_norm=float("nan"), finite=False, frames=0, stop=0)
    outputs = [assembly.model(batch, 1, 4) for batch in batches]
    path = nonfinite.write_bundle(tmp_path, 4, 1, 0, batches, Update(**{**bad.__dict__, "outputs": outputs}))
    found = replay.run(replay.Config(exp=work / "asr", bundle=path, out=tmp_path / "out"))
    assert found["step"] == 5 and not found["finite"] and found["grad_norm"] == "nan"
    losses = [[item["losses"]["transducer"] for item in one["items"]] for one in found["micro_batches"]]
    assert losses[1][1] == "nan" and all(isinstance(value, float) for value in losses[0])


def test_what_cannot_be_replayed(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="has 9 steps"):
        replay.run(replay.Config(exp=work / "pre", step=10))
    with pytest.raises(DataError, match=r"config\.yaml: missing"):
        replay.run(replay.Config(exp=tmp_path, step=1))
    with pytest.raises(DataError, match="no bundle"):
        replay.run(replay.Config(exp=work / "pre", bundle=tmp_path))
    assert main(["replay", "--exp", str(work / "pre")]) == 2
    assert "give step" in capsys.readouterr().err
