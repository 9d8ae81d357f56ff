"""Utterances of some data directories, with features read from archives or computed on the way, and loaders over them.

Dimension letters: T frames (10 ms), F mel bins.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from w2vbert_asr.batch import Batch
from w2vbert_asr.counter_random import draw_key
from w2vbert_asr.data import batching
from w2vbert_asr.data.batching import Cost, Item, Piece
from w2vbert_asr.data.collate import collate
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.features.augment import SpecAugmentConfig, spec_augment
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.text.tokenizer import Tokenizer

FRAMES_PER_SECOND = 100


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """features: read from dump/, or computed online from audio. speeds: factors of online features, each a copy.

    batch_seconds: padded audio of a global batch; in fine-tuning a token costs token_frames and each cell of an
    utterance's lattice, frames times tokens, cell_frames as much as a frame (10 ms) of audio. crop_seconds: with
    packing, utterances of a speaker are joined and cut to crops of this length. min_seconds, max_seconds: shorter and
    longer utterances are left out of training.
    num_workers: loader processes.
    """

    features: Literal["dump", "online"] = "dump"
    speeds: tuple[float, ...] = (1.0,)
    batch_seconds: float = 200.0
    token_frames: float = 0.0
    cell_frames: float = 0.0
    crop_seconds: float = 32.0
    min_seconds: float = 0.5
    max_seconds: float = 40.0
    num_workers: int = 0

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        found = []
        if self.features == "dump" and self.speeds != (1.0,):
            found.append("speeds are for features: online; stage 1 writes the copies of dump/ (fbank --speeds)")
        if not 0.0 < self.min_seconds < self.max_seconds:
            found.append("min_seconds and max_seconds must satisfy 0 < min_seconds < max_seconds")
        if self.token_frames < 0.0 or self.cell_frames < 0.0:
            found.append("token_frames and cell_frames must not be negative")
        return found


class Corpus:
    """The utterances of several data directories in byte order of utt_id, with normalised features and tokens."""

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
        self.utt_ids = self.reader.utt_ids
        self.speakers = self.reader.speakers
        self.num_frames = self.reader.num_frames
        self.tokens: list[list[int]] = [[] for _ in self.utt_ids]
        texts = self.reader.texts
        if tokenizer is not None:
            silent = [utt_id for utt_id, text in zip(self.utt_ids, texts, strict=True) if text is None]
            if silent:
                where = ", ".join(str(folder) for folder in folders)
                raise DataError(f"{where}: {len(silent)} utterance(s) without text, the first {silent[0]}; give `text`")
            self.tokens = [tokenizer.encode(text or "") for text in texts]
        self.texts = [text or "" for text in texts]
        self.digest = _digest(self.utt_ids, self.num_frames, self.texts)

    def feats(self, piece: Piece) -> Tensor:
        """(T, F) normalised features of frames start to end - 1 of an utterance."""
        feats = self.reader.load(piece.index)[piece.start : piece.end]
        return feats if self.stats is None else self.stats.normalize(feats)

    def whole(self, index: int) -> Item:
        """The item that is one whole utterance."""
        return (Piece(index, 0, self.num_frames[index]),)


def _digest(utt_ids: Sequence[str], num_frames: Sequence[int], texts: Sequence[str]) -> str:
    """SHA-256 over what decides order and batches."""
    digest = hashlib.sha256()
    for record in zip(utt_ids, num_frames, texts, strict=True):
        digest.update(f"{record}\n".encode())
    return digest.hexdigest()


class TrainLoader(Dataset[Batch]):
    """Batches by position: number `position` since the start of training is a pure function of (data, seed, position).

    packed: crops of one speaker (pre-training) instead of whole utterances. A global batch is dealt to the ranks in
    turn.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: DataConfig,
        *,
        seed: int,
        packed: bool,
        blank_id: int = 0,
        augment: SpecAugmentConfig | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.corpus, self.config, self.seed, self.packed = corpus, config, seed, packed
        self.blank_id, self.augment, self.rank, self.world_size = blank_id, augment, rank, world_size
        self.digest = corpus.digest
        low, high = config.min_seconds * FRAMES_PER_SECOND, config.max_seconds * FRAMES_PER_SECOND
        self.cost = Cost() if packed else Cost(per_token=config.token_frames, per_cell=config.cell_frames)
        self.usable = [i for i, frames in enumerate(corpus.num_frames) if packed or low <= frames <= high]
        self.plan = lru_cache(maxsize=2)(self._plan)
        self.batches_per_epoch = len(self.plan(0))
        if self.batches_per_epoch == 0:
            raise DataError(
                f"nothing left to train on: none of {len(corpus.num_frames)} utterances lasts between "
                f"{config.min_seconds} and {config.max_seconds} s (data.min_seconds, data.max_seconds)"
            )

        smallest = min(map(len, self.plan(0)))
        if smallest < world_size:
            raise ConfigError(
                f"data.batch_seconds={config.batch_seconds}: a batch has only {smallest} item(s) for {world_size} "
                "ranks; raise it, or lower data.crop_seconds or data.max_seconds"
            )

    @property
    def left_out(self) -> int:
        """Utterances that are too short or too long."""
        return len(self.corpus.num_frames) - len(self.usable)

    def _plan(self, epoch: int) -> list[list[Item]]:
        rng = np.random.Generator(np.random.Philox(draw_key(self.seed, epoch, self.digest, "order") % 2**63))
        corpus, config = self.corpus, self.config
        if self.packed:
            items = batching.pack_speakers(
                corpus.num_frames,
                corpus.speakers,
                int(config.crop_seconds * FRAMES_PER_SECOND),
                int(config.min_seconds * FRAMES_PER_SECOND),
                rng,
            )
        else:
            items = [corpus.whole(index) for index in self.usable]
        lengths = [batching.item_frames(item) for item in items]
        tokens = None if self.packed else [len(corpus.tokens[item[0].index]) for item in items]
        batches = batching.batch_by_cost(lengths, config.batch_seconds * FRAMES_PER_SECOND, rng, tokens, self.cost)
        return [[items[i] for i in batch] for batch in batches]

    def dearest(self) -> Batch:
        """This rank's share of the batch of the first epoch that costs most, to be tried before all others."""
        return self[max(range(self.batches_per_epoch), key=lambda index: self._cost_of(self.plan(0)[index]))]

    def _cost_of(self, items: Sequence[Item]) -> float:
        frames = max(map(batching.item_frames, items))
        return len(items) * self.cost.of(frames, max(len(self.corpus.tokens[item[0].index]) for item in items))

    def position_to_epoch(self, position: int) -> tuple[int, int]:
        """(epoch, number of the batch in it)."""
        return divmod(position, self.batches_per_epoch)

    def __getitem__(self, position: int) -> Batch:
        """This rank's share of the global batch at `position`."""
        epoch, _ = self.position_to_epoch(position)
        augment = self._augment_at(epoch) if self.augment else None
        return make_batch(self.corpus, self.items(position), self.blank_id, augment)

    def items(self, position: int) -> list[Item]:
        """What that batch is made of."""
        epoch, index = self.position_to_epoch(position)
        return self.plan(epoch)[index][self.rank :: self.world_size]

    def _augment_at(self, epoch: int) -> _Augment:
        assert self.augment is not None
        return _Augment(self.augment, self.seed, epoch)

    def iterate(self, start_position: int) -> Iterator[Batch]:
        """Batches from a position on, without end."""
        loader: DataLoader[Batch] = DataLoader(
            self,
            batch_size=None,
            sampler=_Positions(start_position),
            num_workers=self.config.num_workers,
            prefetch_factor=4 if self.config.num_workers else None,
            worker_init_fn=_start_worker if self.config.num_workers else None,
        )
        yield from loader


class EvalLoader:
    """One pass over a data directory in a fixed order; `packed` as in training."""

    def __init__(self, corpus: Corpus, config: DataConfig, *, packed: bool, blank_id: int = 0) -> None:
        self.corpus, self.blank_id = corpus, blank_id
        self.digest = corpus.digest
        frames = corpus.num_frames
        crop = int(config.crop_seconds * FRAMES_PER_SECOND)
        items = (
            batching.pack_speakers(frames, corpus.speakers, crop, int(config.min_seconds * FRAMES_PER_SECOND), None)
            if packed
            else [corpus.whole(index) for index in range(len(frames)) if frames[index] > 0]
        )
        lengths = [batching.item_frames(item) for item in items]
        batches = batching.batch_by_cost(lengths, config.batch_seconds * FRAMES_PER_SECOND, None)
        self.batches = [[items[i] for i in batch] for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for items in self.batches:
            yield make_batch(self.corpus, items, self.blank_id, None)


@dataclass(frozen=True)
class _Augment:
    config: SpecAugmentConfig
    seed: int
    epoch: int

    def __call__(self, feats: Tensor, utt_id: str) -> Tensor:
        key = draw_key(self.seed, self.epoch, utt_id, "spec_augment") % 2**63
        return spec_augment(feats, np.random.Generator(np.random.Philox(key)), self.config)


def make_batch(corpus: Corpus, items: Sequence[Item], blank_id: int, augment: _Augment | None) -> Batch:
    """The batch of some items; an item is named by its first utterance and the frame at which it starts."""
    feats, tokens, utt_ids = [], [], []
    for item in items:
        first = item[0]
        whole = len(item) == 1 and first.start == 0 and first.end == corpus.num_frames[first.index]
        utt_id = corpus.utt_ids[first.index] + ("" if whole else f"@{first.start}")
        one = torch.cat([corpus.feats(piece) for piece in item])
        feats.append(augment(one, utt_id) if augment else one)
        tokens.append(corpus.tokens[first.index] if whole else [])
        utt_ids.append(utt_id)
    return collate(feats, tokens, utt_ids, blank_id)


class _Positions:
    """0, 1, 2, ... from a start: the sampler of an endless loader."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while True:
            yield position
            position += 1


def _start_worker(_worker: int) -> None:
    """One thread, and a process group of its own: Ctrl-C and torchrun's SIGTERM are for the run to answer, which still
    needs its workers to finish the step."""
    torch.set_num_threads(1)
    os.setpgid(0, 0)
