"""What saves memory, and which of it most."""

from __future__ import annotations

import dataclasses

from tests.planning.trainings import make_training
from w2vbert_asr.planning.knobs import try_knobs
from w2vbert_asr.planning.memory import step_memory
from w2vbert_asr.planning.plan import USABLE_SHARE, Gpu, make_plan
from w2vbert_asr.planning.training import PlannedTraining


def peak(training: PlannedTraining, gpus: int) -> float:
    return step_memory(training, training.parameters(), gpus).peak.total


def test_each_knob_is_computed_again() -> None:
    training = make_training("pretrain", num_layers=12)
    knobs = {knob.setting: knob.total for knob in try_knobs(training, training.parameters(), 2)}
    data, trainer = training.data, training.trainer
    halved = dataclasses.replace(
        training,
        data=dataclasses.replace(data, batch_seconds=16.0),
        trainer=dataclasses.replace(trainer, accumulate=2),
    )
    in_bf16 = dataclasses.replace(training, trainer=dataclasses.replace(trainer, precision="bf16"))
    shorter = dataclasses.replace(training, data=dataclasses.replace(data, crop_seconds=4.0))
    expected = {
        "model.encoder.checkpoint_blocks=true": peak(training.checkpointed(), 2),
        "data.batch_seconds=16 trainer.accumulate=2": peak(halved, 2),
        "trainer.precision=bf16": peak(in_bf16, 2),
        "data.crop_seconds=4": peak(shorter, 2),
        "--gpus 4": peak(training, 4),
        "trainer.parallel=fsdp": step_memory(training, training.parameters(), 2, "fsdp").peak.total,
    }
    assert {setting: round(total) for setting, total in expected.items()} == knobs
    assert list(knobs.values()) == sorted(knobs.values())


def test_what_helps_most_depends_on_what_is_large() -> None:
    deep = make_training("pretrain", num_layers=12)
    assert try_knobs(deep, deep.parameters(), 1)[0].setting == "model.encoder.checkpoint_blocks=true"
    checkpointed = deep.checkpointed()
    settings = [knob.setting for knob in try_knobs(checkpointed, checkpointed.parameters(), 1)]
    assert "model.encoder.checkpoint_blocks=true" not in settings and settings[0] == "trainer.precision=bf16"
    quiet = dataclasses.replace(deep, data=dataclasses.replace(deep.data, batch_seconds=0.8, crop_seconds=0.4))
    assert try_knobs(quiet, quiet.parameters(), 2)[0].setting == "trainer.parallel=fsdp"


def test_too_few_items_for_more_gpus() -> None:
    training = make_training("finetune")
    settings = [knob.setting for knob in try_knobs(training, training.parameters(), 3)]
    assert settings and not any(one.startswith(("--gpus", "data.batch_seconds")) for one in settings)


def test_knobs_only_where_it_does_not_fit() -> None:
    training = make_training("finetune")
    size = peak(training, 1) / USABLE_SHARE
    fits, not_fits = (
        make_plan(training, 1, Gpu(peak_flops=1e12, utilisation=1.0, memory=size * share)) for share in (1.001, 0.999)
    )
    assert fits.knobs == () and not_fits.knobs
