"""What a search needs of a model: decoder steps and the joiner. Encoder output is made before, by the caller.

And what it needs of a language model, which it may add (see fusion).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from w2vbert_asr.models.decoder import LSTMDecoder
from w2vbert_asr.models.joiner import Joiner


class Searchable(Protocol):
    """A transducer, as far as a search sees it."""

    @property
    def decoder(self) -> LSTMDecoder: ...

    @property
    def joiner(self) -> Joiner: ...

    @property
    def blank_id(self) -> int: ...


class LanguageModel(Protocol):
    """log P(token | tokens before) of N prefixes at once; a state is a whole number, known to this model alone."""

    def start(self) -> Tensor:
        """The state (1,) before the first token. States from before this call are no longer known."""
        ...

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States (N,), next tokens (N,) -> states (N,)."""
        ...

    def log_probs(self, states: Tensor) -> Tensor:
        """States (N,) -> (N, V + 1): natural log P of every token and, last, of the end; blank's has no meaning."""
        ...
