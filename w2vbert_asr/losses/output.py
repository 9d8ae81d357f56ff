"""What a model returns from a batch: sums and counts, so that accumulation over micro-batches and ranks is exact."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """A loss as a sum over `count` items; the trainer divides once, by the count over all ranks and micro-batches.

    total: scalar, differentiable. count: scalar tensor (no gradient). weight: factor of the term in the objective.
    by_utterance: (B,), what each adds to the total, without gradient; None where it is not a sum over utterances.
    """

    total: Tensor
    count: Tensor
    weight: float = 1.0
    by_utterance: Tensor | None = None


@dataclass(frozen=True)
class LossOutput:
    """terms: name -> LossTerm; the objective is sum(weight * total / count). stats: name -> (sum, count), to log."""

    terms: dict[str, LossTerm]
    stats: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
