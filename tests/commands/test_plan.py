"""`w2vbert plan`: what it prints of the recipes' configurations, and what it says of wrong ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from w2vbert_asr import cli
from w2vbert_asr import config as configuration
from w2vbert_asr.commands import finetune, pretrain
from w2vbert_asr.models.transducer import Transducer
from w2vbert_asr.models.w2vbert import W2VBert
from w2vbert_asr.planning.memory import Memory

RECIPES = Path(__file__).parents[2] / "recipes"
XL = RECIPES / "librispeech" / "conf" / "pretrain_xl.yaml"
PRETRAIN = sorted(RECIPES.glob("*/conf/pretrain*.yaml"))
FINETUNE = sorted(RECIPES.glob("*/conf/finetune*.yaml"))
OPTIONS = {"train": ["train"], "dev": "dev", "out": "out"}
TINY = """\
model:
  encoder: {num_layers: 6, subsampling: {channels: 4}, block: {model_dim: 16, num_heads: 2, feed_forward_dim: 32}}
data: {batch_seconds: 320, crop_seconds: 8}
"""


def plan(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, dict[str, Any]]:
    """(text, JSON) of a plan that must work."""
    assert cli.main(["plan", "--json", *map(str, argv)]) == 0
    text, _, last = capsys.readouterr().out.rstrip("\n").rpartition("\n")
    return text, json.loads(last)


def name_of(path: Path) -> str:
    return f"{path.parts[-3]}-{path.stem}"


@pytest.mark.parametrize("path", PRETRAIN, ids=name_of)
def test_parameters_of_pretraining_are_exact(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = configuration.load(pretrain.Config, path, options=OPTIONS).model
    with torch.device("meta"):
        expected = sum(parameter.numel() for parameter in W2VBert(model, 1).parameters())
    text, found = plan(capsys, "--config", path)
    assert found["kind"] == "pretrain" and found["parameters"]["total"] == expected
    assert sum(found["parameters"].values()) == 2 * expected
    assert f"{expected:,}" in text


@pytest.mark.parametrize("path", FINETUNE, ids=name_of)
def test_parameters_of_fine_tuning_are_exact(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = configuration.load(finetune.Config, path, options={**OPTIONS, "tokenizer": "bpe.model"}).model
    with torch.device("meta"):
        expected = sum(parameter.numel() for parameter in Transducer(model, 500, 0).parameters())
    _, found = plan(capsys, "--config", path, "--vocab-size", 500)
    assert found["kind"] == "finetune" and found["parameters"]["total"] == expected
    lattices = {found["memory_bytes_per_gpu"][strategy]["lattice"] for strategy in ("ddp", "fsdp")}
    assert min(lattices) > 0


def test_the_paper_s_xl(capsys: pytest.CaptureFixture[str]) -> None:
    text, found = plan(capsys, "--config", XL, "--gpus", 64)
    parameters = found["parameters"]
    assert parameters["total"] == pytest.approx(0.6e9, rel=0.05)
    assert list(parameters) == [
        "encoder.subsampling", "encoder.projection", "encoder.blocks", "quantizer", "context", "prediction", "total"
    ]  # fmt: skip
    assert found["audio_hours_per_step"] == pytest.approx(2048 * 32 / 3600)
    frames = 2048 * 800
    assert found["flops_per_step"] == pytest.approx(6 * parameters["total"] * frames, rel=0.15)  # the rule of thumb
    assert found["repeated_flops_per_step"] == pytest.approx(found["flops_per_step"] / 3, rel=0.05)
    rate = 64 * 989e12 * 0.22
    assert found["days"] == pytest.approx(found["flops_per_step"] * 400_000 / rate / 86400)
    ddp, fsdp = found["memory_bytes_per_gpu"]["ddp"], found["memory_bytes_per_gpu"]["fsdp"]
    assert ddp["optimizer"] == pytest.approx(8 * parameters["total"], rel=1e-5)
    assert fsdp["optimizer"] == pytest.approx(ddp["optimizer"] / 64, rel=1e-5)
    assert fsdp["total"] < ddp["total"] < sum(ddp.values()) - ddp["total"]
    assert found["fits"] == {"ddp": True, "fsdp": True} and found["knobs"] == []
    for words in ("pre-training on 64 GPUs, bf16", "593,912,576", "18.20", "22% of 989 TFLOP/s"):
        assert words in text


def test_what_does_not_fit_names_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    text, found = plan(capsys, "--config", XL, "--gpus", 8, "--gpu-memory-gb", 40)
    assert found["fits"]["ddp"] is False
    first = found["knobs"][0]
    assert first["total"] == min(knob["total"] for knob in found["knobs"])
    (line,) = [line for line in text.splitlines() if "helps most" in line]
    assert line.split()[2] == f"{first['total'] / 2**30:.2f}" and line.endswith(first["setting"])


def test_settings_reach_the_planned_training(capsys: pytest.CaptureFixture[str]) -> None:
    plain = plan(capsys, "--config", XL)[1]
    changed = plan(
        capsys, "--config", XL, "--set", "model.encoder.num_layers=12", "--set", "trainer.max-steps=10"
    )[1]  # fmt: skip
    assert 2 * changed["parameters"]["encoder.blocks"] == plain["parameters"]["encoder.blocks"]
    assert changed["steps"] == 10
    assert plain["days"] / changed["days"] == pytest.approx(
        40_000 * plain["flops_per_step"] / changed["flops_per_step"]
    )


def test_options_of_the_estimate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(TINY)
    common = ("--config", file, "--kind", "finetune")
    one = plan(capsys, *common, "--peak-tflops", 100, "--utilisation", 0.5)[1]
    two = plan(capsys, *common, "--peak-tflops", 200, "--utilisation", 0.25)[1]
    assert one["days"] == pytest.approx(two["days"]) and one["batch"]["tokens"] == 48
    other = plan(capsys, *common, "--utterance-seconds", 8, "--tokens-per-second", 3)[1]
    assert other["batch"] == {"items": 40, "feat_frames": 800, "tokens": 24, "accumulate": 1}
    fp32 = plan(capsys, *common)[1]
    assert fp32["days"] == pytest.approx(one["days"] * 50 / (0.22 * 67))
    lattice = plan(capsys, *common, "--set", "data.cell_frames=0.01")[1]
    assert lattice["batch"]["items"] == 320 // (12 * (1 + 0.01 * 48))


def test_a_resolved_configuration_and_the_defaults(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An experiment's config.yaml can be planned, and without --config the defaults are."""
    config = pretrain.Config(train=(Path("a"),), dev=Path("b"), out=Path("c"))
    file = tmp_path / "config.yaml"
    file.write_text(configuration.dump(config))
    resolved = plan(capsys, "--config", file)[1]
    assert resolved == plan(capsys, "--kind", "pretrain")[1]
    assert plan(capsys, "--set", "model.contrastive-layers=6")[1] == resolved


@pytest.mark.parametrize(
    ("yaml", "argv", "message"),
    [
        (TINY, [], "pre-training or fine-tuning?"),
        (TINY + "augment: {}\nmodell: {}\n", [], "did you mean model?"),
        (TINY, ["--kind", "pretrian"], "did you mean pretrain?"),
        (TINY, ["--kind", "pretrain", "--gpus", "0"], "gpus=0 is out of range"),
        (TINY, ["--kind", "pretrain", "--gpus", "41"], "a batch has only 40 item(s) of 8 s for 41 GPUs"),
        (TINY, ["--kind", "pretrain", "--utilisation", "40"], "utilisation=40.0 is out of range"),
        (TINY, ["--kind", "pretrain", "--set", "model.encoder.num_layer=3"], "did you mean model.encoder.num_layers?"),
        (TINY, ["--kind", "pretrain", "--set", "data.crop_seconds=0"], "data.crop_seconds=0.0"),
        (TINY, ["--kind", "finetune", "--utterance-seconds", "50"], "utterance_seconds=50.0 is outside data."),
        (TINY, ["--kind", "finetune", "--set", "freeze=[encodr]"], "no parameter begins with 'encodr'"),
        ("model: {decoder: {}, quantizer: {}}\n", [], "found model.decoder, model.quantizer; give --kind"),
        ("model: [1\n", [], "not valid YAML"),
        (TINY, ["--gpu", "3"], "did you mean --gpus?"),
    ],
)
def test_wrong_inputs(
    yaml: str, argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml)
    assert cli.main(["plan", "--config", str(file), *argv]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.out == ""


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--config", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml: cannot be read" in capsys.readouterr().err


def test_every_field_of_a_plan_is_plain_data(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = plan(capsys, "--kind", "finetune", "--gpus", 2)
    for key in ("parameters", "flops_per_step", "memory_bytes_per_gpu", "days"):
        assert found[key]
    for strategy in ("ddp", "fsdp"):
        kinds = [field.name for field in dataclasses.fields(Memory)]
        assert list(found["memory_bytes_per_gpu"][strategy]) == [*kinds, "total"]
