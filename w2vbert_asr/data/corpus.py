"""Utterances of some data directories: features read from archives or computed on the way, and tokens.

Dimension letters: N utterances, T frames (10 ms), F mel bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from w2vbert_asr.data.batching import Item, Piece
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.data.index import token_counts
from w2vbert_asr.data.lazy import Lazy
from w2vbert_asr.errors import DataError
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """features: read from dump/, or computed online from audio. speeds: factors of online features, each a copy.

    batch_seconds: padded audio of a global batch; in fine-tuning a token costs token_frames and each cell of an
    utterance's lattice, frames times tokens, cell_frames as much as a frame (10 ms) of audio. crop_seconds: with
    packing, utterances of a speaker are joined and cut to crops of this length. min_seconds, max_seconds: shorter and
    longer utterances are left out of training.
    max_dropped: share of the utterances whose audio may turn out to be damaged while training with features: online;
    each is replaced by another of its batch. pad_frames: the frames (10 ms) of a training batch are rounded up to a
    multiple of it, so that few lengths occur, each of which is a CUDA graph of its own. num_workers: loader processes.
    """

    features: Literal["dump", "online"] = "dump"
    speeds: tuple[float, ...] = (1.0,)
    batch_seconds: float = 200.0
    token_frames: float = 0.0
    cell_frames: float = 0.0
    crop_seconds: float = 32.0
    min_seconds: float = 0.5
    max_seconds: float = 40.0
    max_dropped: float = 0.001
    pad_frames: int = 1
    num_workers: int = 0

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        found = []
        if self.features == "dump" and self.speeds != (1.0,):
            found.append("speeds are for features: online; stage 1 writes the copies of dump/ (fbank --speeds)")
        if not 0.0 < self.min_seconds < self.max_seconds:
            found.append("min_seconds and max_seconds must satisfy 0 < min_seconds < max_seconds")
        if self.pad_frames < 1:
            found.append(f"pad_frames={self.pad_frames}: at least 1")
        if self.token_frames < 0.0 or self.cell_frames < 0.0:
            found.append("token_frames and cell_frames must not be negative")
        return found


class Corpus:
    """The utterances of several data directories in byte order of utt_id, with normalised features and tokens.

    What is known of them is read, and texts are encoded, when a batch is made. `token_counts`, which a cost of tokens
    or cells needs of all, is an exception: see `data.index.token_counts`.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        config: DataConfig,
        stats: FeatureStats | None,
        tokenizer: Tokenizer | None,
        speeds: Sequence[float] = (1.0,),
    ) -> None:
        self.reader = FeatureReader(folders, online=config.features == "online", speeds=speeds)
        self.stats = stats
        self.tokenizer = tokenizer
        self.utt_ids = self.reader.utt_ids
        self.speakers = self.reader.speakers
        self.num_frames = self.reader.num_frames
        self.digest = self.reader.digest
        self.texts: Sequence[str] = Lazy(len(self.utt_ids), lambda index: self.reader.texts[index] or "")
        self.tokens: Sequence[list[int]] = Lazy(len(self.utt_ids), self._encode)
        silent = self.reader.silent
        if tokenizer is not None and len(silent):
            where, first = ", ".join(map(str, folders)), self.utt_ids[silent[0]]
            raise DataError(f"{where}: {len(silent)} utterance(s) without text, the first {first}; give `text`")

    @cached_property
    def token_counts(self) -> npt.NDArray[np.int32]:
        """(N,) word pieces of each utterance; zeros without a tokenizer."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return np.zeros(len(self.utt_ids), dtype=np.int32)
        return self.reader.gather(lambda index: token_counts(index, tokenizer))

    def feats(self, piece: Piece) -> Tensor:
        """(T, F) normalised features of frames start to end - 1 of an utterance."""
        feats = self.reader.load(piece.index)[piece.start : piece.end]
        return feats if self.stats is None else self.stats.normalize(feats)

    def whole(self, index: int) -> Item:
        """The item that is one whole utterance."""
        return (Piece(index, 0, int(self.num_frames[index])),)

    def _encode(self, index: int) -> list[int]:
        return [] if self.tokenizer is None else self.tokenizer.encode(self.texts[index])
