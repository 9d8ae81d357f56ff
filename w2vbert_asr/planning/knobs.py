"""What makes a training fit into the memory of a GPU: each setting is changed alone and the memory computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from w2vbert_asr.errors import ConfigError
from w2vbert_asr.models.w2vbert import W2VBertConfig
from w2vbert_asr.planning.memory import Strategy, step_memory
from w2vbert_asr.planning.training import Parameter, PlannedTraining


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A change in the user's words, and the memory of a GPU with it, in bytes."""

    setting: str
    total: int


def try_knobs(training: PlannedTraining, parameters: Sequence[Parameter], gpus: int) -> list[Knob]:
    """Each change alone, under DDP where it is not the change, the largest saving first."""
    before = step_memory(training, parameters, gpus).to_dict()["total"]
    found = []
    for setting, changed, num_gpus, strategy in _changes(training, gpus):
        try:
            total = step_memory(changed, parameters, num_gpus, strategy).to_dict()["total"]
        except ConfigError:  # too small a batch for so many GPUs
            continue
        if total < before:
            found.append(Knob(setting=setting, total=total))
    return sorted(found, key=lambda knob: knob.total)


def _changes(training: PlannedTraining, gpus: int) -> Iterator[tuple[str, PlannedTraining, int, Strategy]]:
    data, trainer = training.data, training.trainer
    if not training.model.encoder.checkpoint_blocks:
        yield "model.encoder.checkpoint_blocks=true", training.checkpointed(), gpus, "ddp"
    half, twice = data.batch_seconds / 2, 2 * trainer.accumulate
    yield (
        f"data.batch_seconds={half:g} trainer.accumulate={twice}",
        replace(
            training, data=replace(data, batch_seconds=half), trainer=replace(trainer, accumulate=twice)
        ),
        gpus,
        "ddp",
    )  # fmt: skip
    if isinstance(training.model, W2VBertConfig):
        crop = data.crop_seconds / 2
        yield f"data.crop_seconds={crop:g}", replace(training, data=replace(data, crop_seconds=crop)), gpus, "ddp"
    if trainer.precision != "bf16":
        in_bf16 = replace(training, trainer=replace(trainer, precision="bf16"))
        yield "trainer.precision=bf16", in_bf16, gpus, "ddp"
    yield f"--gpus {2 * gpus}", training, 2 * gpus, "ddp"
    if gpus > 1:
        yield "trainer.parallel=fsdp", training, gpus, "fsdp"
