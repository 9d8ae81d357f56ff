"""A plan: what a training needs before it runs, in parameters, operations, memory and days."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from w2vbert_asr.batch import FRAMES_PER_SECOND
from w2vbert_asr.models.w2vbert import W2VBertConfig
from w2vbert_asr.planning.activations import Widths
from w2vbert_asr.planning.flops import PASSES, forward_flops
from w2vbert_asr.planning.heads import lattice_bytes
from w2vbert_asr.planning.knobs import Knob, try_knobs
from w2vbert_asr.planning.memory import StepMemory, step_memory
from w2vbert_asr.planning.training import BatchShape, Parameter, PlannedTraining

USABLE_SHARE = 0.9  # of a GPU's memory; the rest goes to the CUDA context, NCCL, workspaces and fragmentation
SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """peak_flops: a second, dense, in the training's precision. utilisation: share of it that the model's own
    operations reach. memory: bytes."""

    peak_flops: float
    utilisation: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """parameters: by part. batch: the global one. flops_per_step: three forward passes, on all GPUs together.
    repeated_flops_per_step: forward passes made again (activation checkpointing, the counting pass of accumulation).

    ddp, fsdp: of a step on the fullest GPU. longest_lattice: bytes, of an utterance of data.max_seconds. days: of
    flops_per_step alone, at the GPU's utilisation. knobs: what saves memory under DDP, the largest saving first; empty
    where the training fits.
    """

    training: PlannedTraining
    gpus: int
    gpu: Gpu
    parameters: dict[str, int]
    batch: BatchShape
    flops_per_step: float
    repeated_flops_per_step: float
    ddp: StepMemory
    fsdp: StepMemory
    longest_lattice: float
    knobs: tuple[Knob, ...]

    @property
    def days(self) -> float:
        return self._days(self.flops_per_step)

    @property
    def days_with_repeated(self) -> float:
        return self._days(self.flops_per_step + self.repeated_flops_per_step)

    @property
    def usable_memory(self) -> float:
        """Bytes of a GPU that tensors can have."""
        return USABLE_SHARE * self.gpu.memory

    def _days(self, flops: float) -> float:
        rate = self.gpus * self.gpu.peak_flops * self.gpu.utilisation
        return flops * self.training.trainer.max_steps / rate / SECONDS_PER_DAY

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        ddp, fsdp = self.ddp.to_dict(), self.fsdp.to_dict()
        return {
            "kind": "pretrain" if isinstance(self.training.model, W2VBertConfig) else "finetune",
            "gpus": self.gpus,
            "steps": self.training.trainer.max_steps,
            "precision": self.training.trainer.precision,
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            "batch": {**asdict(self.batch), "accumulate": self.training.trainer.accumulate},
            "audio_hours_per_step": self.training.audio_seconds / 3600.0,
            "flops_per_step": self.flops_per_step,
            "repeated_flops_per_step": self.repeated_flops_per_step,
            "memory_bytes_per_gpu": {"ddp": ddp, "fsdp": fsdp},
            "longest_lattice_bytes": round(self.longest_lattice),
            "usable_bytes_per_gpu": round(self.usable_memory),
            "fits": {"ddp": ddp["total"] <= self.usable_memory, "fsdp": fsdp["total"] <= self.usable_memory},
            "knobs": [{**asdict(knob), "fits": knob.total <= self.usable_memory} for knob in self.knobs],
            "days": self.days,
            "days_with_repeated": self.days_with_repeated,
        }


def make_plan(training: PlannedTraining, gpus: int, gpu: Gpu) -> Plan:
    """Raises ConfigError where the batch has fewer items than there are GPUs."""
    parameters = training.parameters()
    batch, accumulate = training.batch(), training.trainer.accumulate
    flops = forward_flops(training.model, batch, training.vocab_size)
    forward = sum(flops.values())
    repeated = flops["encoder.blocks"] if training.model.encoder.checkpoint_blocks else 0.0
    if training.counts_with_a_pass:
        repeated += forward
    ddp = step_memory(training, parameters, gpus)
    fits = ddp.peak.total <= USABLE_SHARE * gpu.memory
    return Plan(
        training=training,
        gpus=gpus,
        gpu=gpu,
        parameters=count_by_part(parameters),
        batch=batch,
        flops_per_step=PASSES * forward * accumulate,
        repeated_flops_per_step=repeated * accumulate,
        ddp=ddp,
        fsdp=step_memory(training, parameters, gpus, "fsdp"),
        longest_lattice=_longest_lattice(training),
        knobs=() if fits else tuple(try_knobs(training, parameters, gpus)),
    )


def _longest_lattice(training: PlannedTraining) -> float:
    if isinstance(training.model, W2VBertConfig):
        return 0.0
    seconds = training.data.max_seconds
    shape = BatchShape(
        items=1,
        feat_frames=round(seconds * FRAMES_PER_SECOND),
        tokens=round(seconds * training.tokens_per_second),
    )
    widths = Widths.of(training.trainer.precision, "cuda")
    return lattice_bytes(training.model, [shape.lens], training.vocab_size, widths)


def count_by_part(parameters: Sequence[Parameter]) -> dict[str, int]:
    """Numbers of parameters by part of the model, and by part of the encoder, in their order."""
    counts: dict[str, int] = {}
    for parameter in parameters:
        words = parameter.name.split(".")
        part = ".".join(words[: 2 if words[0] == "encoder" else 1])
        counts[part] = counts.get(part, 0) + math.prod(parameter.shape)
    return counts
