"""What a search needs of a model: decoder steps and the joiner. Encoder output is made before, by the caller."""

from __future__ import annotations

from typing import Protocol

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
