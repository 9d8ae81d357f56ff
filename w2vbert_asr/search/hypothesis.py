"""What every search returns, and the settings of all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Hypothesis:
    """A token sequence that a search found.

    score: natural log probability: of one alignment (greedy), or summed over those that the search kept (beam). times:
    for each token, the encoder frame that emitted it, on the best of these alignments. capped: on that alignment, some
    frame, or the utterance, had as many tokens as it may, so that the search, not the model, took blank. lm_score: what
    language models and the length reward add, with their weights (see fusion); the search goes by score + lm_score.
    """

    tokens: tuple[int, ...]
    score: float
    times: tuple[int, ...]
    capped: bool
    lm_score: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """beam_size: hypotheses kept an utterance (beam, alsd, maes). max_length_ratio: tokens that an utterance may have,
    for each of its encoder frames, rounded up; CTC allows 1. max_symbols_per_frame: tokens that one frame may emit
    (greedy, beam). Both and maes_steps are for models that never emit blank; an encoder that sees the whole utterance
    may well have a sentence emitted in a single frame, which a low cap on that would make improbable.

    maes_steps: tokens that one frame may emit; maes_gamma: natural log probability within which of a hypothesis's best
    symbol tokens are tried.
    length_normalization (not greedy): rank the final hypotheses by score / (tokens + 1); the scores stay as they are.
    lm_weight, lodr_weight, length_reward (not greedy): of a language model, of the n-gram model that is taken away, and
    what a token adds (see fusion).
    """

    name: Literal["greedy", "beam", "alsd", "maes"] = "beam"
    beam_size: int = 8
    max_length_ratio: float = 1.0
    max_symbols_per_frame: int = 100
    maes_steps: int = 100
    maes_gamma: float = 2.3
    length_normalization: bool = False
    lm_weight: float = 0.0
    lodr_weight: float = 0.0
    length_reward: float = 0.0

    def problems(self) -> list[str]:
        found = [
            f"{name}: expected at least 1, found {getattr(self, name)}"
            for name in ("beam_size", "max_symbols_per_frame", "maes_steps")
            if getattr(self, name) < 1
        ]
        for name in ("max_length_ratio", "maes_gamma"):
            if not getattr(self, name) > 0:
                found.append(f"{name}: expected a number above 0, found {getattr(self, name)}")
        for name in ("lm_weight", "lodr_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                found.append(f"{name}: expected a number that is not negative, found {getattr(self, name)}")
        if not math.isfinite(self.length_reward):
            found.append(f"length_reward: expected a number, found {self.length_reward}")
        if self.name == "greedy":
            for name in ("lm_weight", "lodr_weight", "length_reward"):
                if getattr(self, name):
                    found.append(f"{name}: greedy search has none; use --search beam")
        return found

    def max_tokens(self, lens: Tensor) -> Tensor:
        """Encoder frames of each utterance -> tokens that it may have, both int64 of the same shape."""
        return (lens.double() * self.max_length_ratio).ceil().long()
