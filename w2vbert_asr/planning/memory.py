"""The memory of one GPU during a training step, by kind.

A step is followed part by part through its forward pass, backward pass and update. Counted are live tensors; the CUDA
context, workspaces of kernels and what the allocator cannot use come on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from w2vbert_asr.planning.activations import FLOAT, Component, Widths
from w2vbert_asr.planning.heads import components
from w2vbert_asr.planning.training import Parameter, PlannedTraining
from w2vbert_asr.training.optimizer import OptimizerName, state_shapes

Strategy = Literal["ddp", "fsdp"]
_ADAFACTOR_COPIES = 4  # of the largest parameter, while Adafactor updates it


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by kind at one moment.

    weights: in float32, with the copies in bf16 that autocast makes. optimizer: its state. gradients: those that exist
    at that moment, with DistributedDataParallel's buckets. activations: with the batch and what lives for a moment.
    lattice: logits, lattice and gradients of the transducer loss.
    """

    weights: float = 0.0
    optimizer: float = 0.0
    gradients: float = 0.0
    activations: float = 0.0
    lattice: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.optimizer + self.gradients + self.activations + self.lattice

    def plus(self, kind: str, num_bytes: float) -> Memory:
        """The same with more of a kind."""
        return replace(self, **{kind: getattr(self, kind) + num_bytes})


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """most: of each kind, at its own largest moment. peak: of all at one moment, which is less than the sum of `most`,
    since gradients come as activations go."""

    most: Memory
    peak: Memory

    def to_dict(self) -> dict[str, int]:
        """Whole bytes: the most of each kind, and the peak as `total`."""
        return {kind: round(value) for kind, value in (*vars(self.most).items(), ("total", self.peak.total))}


def step_memory(
    training: PlannedTraining, parameters: Sequence[Parameter], gpus: int, strategy: Strategy = "ddp"
) -> StepMemory:
    """Of a step on the fullest of `gpus`.

    ddp: everything on every GPU. fsdp: weights, gradients and optimizer state dealt out, a unit (a block, or all that
    is in none) gathered at a time, in the precision of the products. trainer.device cpu: as on a CPU. Raises
    ConfigError where the batch has fewer items than there are GPUs.
    """
    moments = list(_Step(training, parameters, gpus, strategy).moments())
    most = {kind.name: max(getattr(moment, kind.name) for moment in moments) for kind in fields(Memory)}
    return StepMemory(most=Memory(**most), peak=max(moments, key=lambda moment: moment.total))


class _Step:
    """The parts of a step with their bytes, and the walk through them."""

    def __init__(
        self, training: PlannedTraining, parameters: Sequence[Parameter], gpus: int, strategy: Strategy
    ) -> None:
        self.training, self.parameters, self.gpus = training, parameters, gpus
        self.is_sharded = strategy == "fsdp" and gpus > 1
        self.shards = gpus if self.is_sharded else 1
        trainer, shape = training.trainer, training.batch(gpus)
        widths = Widths.of(trainer.precision, "cpu" if trainer.device == "cpu" else "cuda")
        self.product = widths.product
        self.components = components(training.model, shape, widths, training.vocab_size)
        feats = shape.items * shape.feat_frames * training.model.encoder.subsampling.num_mel_bins * FLOAT
        self.batches = feats * trainer.accumulate
        own = [self._numel(part) for part in self.components]
        self.weights = sum(own) * FLOAT
        self.copies = [0.0 if self.is_sharded or widths.product == FLOAT else one * widths.product for one in own]
        self.trained = [self._numel(part, trained_only=True) * FLOAT for part in self.components]
        in_block = [part.prefixes[0].startswith("encoder.blocks.") for part in self.components]
        rest = sum(one for one, inside in zip(own, in_block, strict=True) if not inside)
        self.unit = max(rest, *own)  # elements of the largest unit that FSDP gathers
        if not self.trained[0]:  # a frozen feature encoder: nothing goes back through it
            self.components[0] = replace(self.components[0], saved=0.0, backward=0.0)

    def moments(self) -> Iterator[Memory]:
        """The larger moments of a step, in their order."""
        every = sum(self.trained)
        gradients = every if self.training.trainer.accumulate > 1 else 0.0
        parts = list(zip(self.components, self.copies, self.trained, strict=True))
        held = self._standing()
        for part, copy, _ in parts:
            during = max(part.forward, part.saved + part.until_end)
            held = held.plus("weights", copy)
            yield self._with_gradients(held.plus(part.kind, during), gradients)
            held = held.plus(part.kind, part.saved + part.until_end)
        for part, copy, _ in parts:
            held = held.plus(part.kind, -part.until_end).plus("weights", -copy if part.recomputed else 0.0)
        for part, copy, trained in reversed(parts):
            gradients += trained
            held = held.plus(part.kind, -part.saved)
            during = max(part.backward, part.saved)
            moment = held.plus(part.kind, during).plus("weights", copy if part.recomputed else 0.0)
            yield self._with_gradients(moment, gradients)
            held = held.plus("weights", 0.0 if part.recomputed else -copy)
        yield self._with_gradients(held.plus("optimizer", self._update_bytes()), every)

    def _standing(self) -> Memory:
        """What is there all the time."""
        state = sum(
            math.prod(shape) * FLOAT
            for name, parameter in self._trained_by()
            for shape in state_shapes(name, parameter.shape).values()
        )
        gathered = self.unit * self.product if self.is_sharded else 0.0
        return Memory(
            weights=self.weights / self.shards + gathered, optimizer=state / self.shards, activations=self.batches
        )

    def _with_gradients(self, memory: Memory, gradients: float) -> Memory:
        """Of DDP on several GPUs with its buckets, which hold all gradients once more; of FSDP with a whole unit's."""
        more = self.unit * FLOAT if self.is_sharded else sum(self.trained) if self.gpus > 1 else 0.0
        return memory.plus("gradients", gradients / self.shards + more)

    def _update_bytes(self) -> float:
        """What lives during the update alone."""
        sizes = [math.prod(one.shape) * FLOAT for name, one in self._trained_by() if name == "adafactor"]
        return _ADAFACTOR_COPIES * max(sizes, default=0) / self.shards

    def _trained_by(self) -> Iterator[tuple[OptimizerName, Parameter]]:
        """Every trained parameter with the name of its optimizer."""
        for parameter in self.parameters:
            if parameter.part is not None:
                yield self.training.optimizers[parameter.part].config.name, parameter

    def _numel(self, part: Component, trained_only: bool = False) -> float:
        """Elements of the parameters of a part of the model."""
        own = [parameter for parameter in self.parameters if parameter.name.startswith(part.prefixes)]
        return sum(math.prod(p.shape) for p in own if p.part is not None or not trained_only)
