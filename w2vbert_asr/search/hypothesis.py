"""What every search returns, and the settings of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Hypothesis:
    """A token sequence that a search found.

    score: natural log probability: of one alignment (greedy), or summed over those that the search kept (beam). times:
    for each token, the encoder frame that emitted it, on the best of these alignments. capped: on that alignment, some
    frame emitted as many tokens as it may, so that the search, not the model, ended the frame.
    """

    tokens: tuple[int, ...]
    score: float
    times: tuple[int, ...]
    capped: bool


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """beam_size: hypotheses kept an utterance (beam). max_symbols_per_frame: tokens that one frame may emit.

    length_normalization (beam): rank the final hypotheses by score / (tokens + 1); the scores stay as they are.
    """

    name: Literal["greedy", "beam"] = "beam"
    beam_size: int = 8
    max_symbols_per_frame: int = 10
    length_normalization: bool = False

    def problems(self) -> list[str]:
        return [
            f"{name}: expected at least 1, found {getattr(self, name)}"
            for name in ("beam_size", "max_symbols_per_frame")
            if getattr(self, name) < 1
        ]
