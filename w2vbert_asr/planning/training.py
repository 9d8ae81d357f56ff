"""A training before it runs: what of its configuration decides sizes, its parameters, and the batch of a step.

Dimension letters: B items, T frames (40 ms), U tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from w2vbert_asr.batch import FRAMES_PER_SECOND
from w2vbert_asr.data.batching import Cost
from w2vbert_asr.data.corpus import DataConfig
from w2vbert_asr.errors import ConfigError
from w2vbert_asr.models.transducer import Transducer, TransducerConfig
from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
from w2vbert_asr.modules.subsampling import subsampled
from w2vbert_asr.training.optimizer import Part, assign, freeze
from w2vbert_asr.training.run import TrainerConfig

_ROUNDING = 1e-9
Lens = tuple[int, int]  # T and U of an utterance


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """B items of the same length; feat_frames: 10 ms each; tokens: U of each item, 0 in pre-training."""

    items: int
    feat_frames: int
    tokens: int

    @property
    def frames(self) -> int:
        """T of an item, after subsampling."""
        return subsampled(subsampled(self.feat_frames))

    @property
    def lens(self) -> Lens:
        """T and U of an item."""
        return self.frames, self.tokens


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the model; part: whose optimizer trains it, None where it is frozen."""

    name: str
    shape: torch.Size
    part: str | None


@dataclass(frozen=True, kw_only=True)
class PlannedTraining:
    """What a plan needs of a training's configuration.

    vocab_size: V, and utterance_seconds and tokens_per_second: of all utterances, are assumptions of fine-tuning.
    """

    model: W2VBertConfig | TransducerConfig
    data: DataConfig
    trainer: TrainerConfig
    optimizers: Mapping[str, Part]
    freeze: tuple[str, ...] = ()
    vocab_size: int = 1024
    utterance_seconds: float = 12.0
    tokens_per_second: float = 4.0

    def build(self) -> nn.Module:
        """The model, without memory."""
        with torch.device("meta"):
            if isinstance(self.model, W2VBertConfig):
                return W2VBert(self.model, self.trainer.max_steps)
            return Transducer(self.model, self.vocab_size, blank_id=0)

    def parameters(self) -> list[Parameter]:
        """The parameters of the model, in its order."""
        model = self.build()
        freeze(model, self.freeze)
        parts = {name: part for part, names in assign(model, self.optimizers).items() for name in names}
        return [Parameter(name=name, shape=p.shape, part=parts.get(name)) for name, p in model.named_parameters()]

    def batch(self, gpus: int = 1) -> BatchShape:
        """The largest share that one of `gpus` has of a global batch. Raises ConfigError where some have none."""
        feat_frames, tokens = round(self._item_seconds * FRAMES_PER_SECOND), 0
        cost = Cost()
        if not isinstance(self.model, W2VBertConfig):
            tokens = round(self._item_seconds * self.tokens_per_second)
            cost = Cost(per_token=self.data.token_frames, per_cell=self.data.cell_frames)
        budget = self.data.batch_seconds * FRAMES_PER_SECOND
        items = max(1, math.floor(budget / cost.of(feat_frames, tokens) + _ROUNDING))
        if items < gpus:
            raise ConfigError(
                f"data.batch_seconds={self.data.batch_seconds}: a batch has only {items} item(s) of "
                f"{self._item_seconds:g} s for {gpus} GPUs; raise it, or take fewer GPUs"
            )
        return BatchShape(items=math.ceil(items / gpus), feat_frames=feat_frames, tokens=tokens)

    @property
    def audio_seconds(self) -> float:
        """Of a step, on all GPUs together."""
        shape = self.batch()
        return shape.items * shape.feat_frames * self.trainer.accumulate / FRAMES_PER_SECOND

    @property
    def _item_seconds(self) -> float:
        return self.data.crop_seconds if isinstance(self.model, W2VBertConfig) else self.utterance_seconds

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        least, most = self.data.min_seconds, self.data.max_seconds
        found = []
        if isinstance(self.model, W2VBertConfig):
            if self.data.crop_seconds < 1 / FRAMES_PER_SECOND:
                given = f"data.crop_seconds={self.data.crop_seconds}"
                found.append(f"{given} is shorter than a frame; give seconds, such as 32")
        elif not least <= self.utterance_seconds <= most:
            given = f"utterance_seconds={self.utterance_seconds}"
            found.append(f"{given} is outside data.min_seconds={least} to data.max_seconds={most}; give one between")
        return found

    @property
    def counts_with_a_pass(self) -> bool:
        """Whether accumulation begins with a forward pass that counts (training/update.py)."""
        kind = W2VBert if isinstance(self.model, W2VBertConfig) else Transducer
        return self.trainer.accumulate > 1 and not hasattr(kind, "counts")

    def checkpointed(self) -> PlannedTraining:
        """The same with activation checkpointing."""
        encoder = dataclasses.replace(self.model.encoder, checkpoint_blocks=True)
        return dataclasses.replace(self, model=dataclasses.replace(self.model, encoder=encoder))
