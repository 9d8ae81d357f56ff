"""A run as a whole: what it writes, which checkpoints it keeps, how it ends."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from tests.training import toy
from w2vbert_asr import config as configuration
from w2vbert_asr.batch import Batch
from w2vbert_asr.errors import ConfigError
from w2vbert_asr.losses.output import LossOutput
from w2vbert_asr.training import checkpoint, precision
from w2vbert_asr.training.optimizer import freeze
from w2vbert_asr.training.run import TrainerConfig


def lines(exp: Path, split: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def test_what_an_experiment_holds(tmp_path: Path) -> None:
    result = toy.run(tmp_path, tensorboard=True)
    assert (result.step, result.resumed_from, result.already_finished) == (20, None, False)
    assert result.checkpoint == checkpoint.newest(tmp_path)
    assert configuration.read_yaml(tmp_path / "config.yaml") == {"toy": {"size": 1}, "trainer": {"max_steps": 20}}
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["world_size"] == 1 and environment["command"]
    assert [line["step"] for line in lines(tmp_path, "train")] == [3, 6, 9, 12, 15, 18, 20]
    assert [line["step"] for line in lines(tmp_path, "dev")] == [6, 12, 18, 20]
    assert [line["epoch"] for line in lines(tmp_path, "train")] == [0, 0, 1, 1, 2, 2, 2]
    frames = sum(int(toy.make_batch(1000 * (i // 7) + i % 7).feat_lens.sum()) for i in range(20))
    assert lines(tmp_path, "train")[-1]["hours"] == pytest.approx(frames * 0.01 / 3600)
    assert lines(tmp_path, "train")[-1]["lr_encoder"] == pytest.approx(0.01 * 0.05)
    assert lines(tmp_path, "dev")[-1]["loss"] < 0.7 * lines(tmp_path, "dev")[0]["loss"]
    assert (tmp_path / "tensorboard").is_dir()
    timing = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timing] == [3, 6, 9, 12, 15, 18, 20]
    assert all(0 < line["data_wait_share"] < 1 for line in timing)


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.run(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    log = (tmp_path / "log.jsonl").read_bytes()
    capsys.readouterr()
    assert toy.run(tmp_path).already_finished
    assert "finished at step 20; nothing left to do" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()} == before
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_the_best_and_the_newest_are_kept(tmp_path: Path) -> None:
    result = toy.run(tmp_path, keep=1, keep_best=2, higher_is_better=True, criterion="frame", eval_every=4)
    scores = {line["step"]: line["frame"] for line in lines(tmp_path, "dev")}
    ranked = sorted(scores, key=lambda step: -scores[step])[:2]
    assert [step for _, step in result.best] == ranked
    kept = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(tmp_path)]
    assert kept == sorted({*ranked, 20})
    assert [checkpoint.step_of(path) for path in checkpoint.best(tmp_path, 2)] == ranked


def test_a_criterion_that_dev_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'wer' is no metric of dev; choose of loss, frame, small, utterance"):
        toy.run(tmp_path, criterion="wer")


def test_accumulation_consumes_as_many_batches(tmp_path: Path) -> None:
    toy.run(tmp_path, accumulate=3, max_steps=5)
    state = checkpoint.read_state(checkpoint.newest(tmp_path))
    assert (state.step, state.position, state.epoch) == (5, 15, 2)


def test_frozen_parameters_stay_and_bf16_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: ["avx512_bf16"])  # for so small a model any CPU will do
    model = toy.ToyModel()
    freeze(model, ["encoder."])
    before = model.encoder.weight.clone()
    toy.run(tmp_path, model, parts={"rest": toy.PARTS["rest"]}, precision="bf16")
    assert torch.equal(model.encoder.weight, before)
    dev = lines(tmp_path, "dev")
    assert dev[-1]["loss"] < 0.8 * dev[0]["loss"]


def test_the_configuration_is_checked() -> None:
    problems = TrainerConfig(max_steps=0, clip_norm=0.0).problems()
    assert problems == ["max_steps=0: at least 1", "clip_norm=0.0: more than 0.0"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_blocks_train_alike(tmp_path: Path, mode: Literal["default", "reduce-overhead"]) -> None:
    class Stacked(toy.ToyModel):
        def __init__(self) -> None:
            super().__init__(dropout=0.0, norm=False)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(toy.DIM, toy.DIM), nn.Tanh()) for _ in range(2))

        def forward(self, batch: Batch, seed: int, step: int) -> LossOutput:
            feats = batch.feats
            for block in self.blocks:
                feats = feats + block(feats)
            return super().forward(replace(batch, feats=feats), seed, step)

    for compiled in (False, True):
        toy.run(tmp_path / str(compiled), Stacked(), compile=compiled, compile_mode=mode, max_steps=5)
    plain, fused = (checkpoint.load_weights(checkpoint.newest(tmp_path / str(one))) for one in (False, True))
    assert plain.keys() == fused.keys()
    for name, wanted in plain.items():
        torch.testing.assert_close(fused[name], wanted, rtol=1e-4, atol=1e-5)
