"""Loaders over a corpus: batches by position for training, one pass in a fixed order for evaluation.

Dimension letters: I items, T frames (10 ms), F mel bins.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from w2vbert_asr.allocator import leave_inherited_memory
from w2vbert_asr.batch import FRAMES_PER_SECOND, Batch
from w2vbert_asr.counter_random import draw_key
from w2vbert_asr.data import batching
from w2vbert_asr.data.audio import AudioError
from w2vbert_asr.data.batching import Batches, Cost, Item, Items
from w2vbert_asr.data.collate import collate
from w2vbert_asr.data.corpus import Corpus, DataConfig
from w2vbert_asr.errors import ConfigError, DataError, UserError, summarize
from w2vbert_asr.features.augment import SpecAugmentConfig, spec_augment

_LOADER_RESTARTS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which items make which batch of an epoch, as arrays; `plan[b]` is batch b."""

    items: Items
    batches: Batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> list[Item]:
        return [self.items[int(item)] for item in self.batches[batch]]


@dataclass(frozen=True, kw_only=True)
class Share:
    """A rank's part of a global batch."""

    epoch: int
    items: list[Item]


def _crops(corpus: Corpus, config: DataConfig, rng: np.random.Generator | None) -> Items:
    longest, shortest = (int(seconds * FRAMES_PER_SECOND) for seconds in (config.crop_seconds, config.min_seconds))
    return batching.pack_speakers(corpus.num_frames, corpus.speakers, longest, shortest, rng)


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
        frames = corpus.num_frames
        self.usable = np.flatnonzero((low <= frames) & (frames <= high)) if not packed else np.arange(len(frames))
        self.plan = lru_cache(maxsize=2)(self._plan)
        self.batches_per_epoch = len(self.plan(0))
        if self.batches_per_epoch == 0:
            raise DataError(
                f"nothing left to train on: none of {len(corpus.num_frames)} utterances lasts between "
                f"{config.min_seconds} and {config.max_seconds} s (data.min_seconds, data.max_seconds)"
            )

        smallest = self.plan(0).batches.sizes.min()
        if smallest < world_size:
            raise ConfigError(
                f"data.batch_seconds={config.batch_seconds}: a batch has only {smallest} item(s) for {world_size} "
                "ranks; raise it, or lower data.crop_seconds or data.max_seconds"
            )

    def _plan(self, epoch: int) -> Plan:
        rng = np.random.Generator(np.random.Philox(draw_key(self.seed, epoch, self.digest, "order") % 2**63))
        corpus, budget = self.corpus, self.config.batch_seconds * FRAMES_PER_SECOND
        if self.packed:
            items = _crops(corpus, self.config, rng)
        else:
            items = batching.whole(self.usable, corpus.num_frames[self.usable])
        return Plan(
            items=items, batches=batching.batch_by_cost(items.frames, budget, rng, self._tokens(items), self.cost)
        )

    def _tokens(self, items: Items) -> npt.NDArray[np.int32] | None:
        """(I,) word pieces of each item, where they cost something."""
        return None if self.cost == Cost() else self.corpus.token_counts[items.first]

    def dearest(self) -> Batch:
        """This rank's share of the batch of the first epoch that costs most, to be tried before all others."""
        return self[self.dearest_position]

    @cached_property
    def dearest_position(self) -> int:
        """Where that batch stands."""
        plan = self.plan(0)
        frames, tokens = plan.batches.most(plan.items.frames), self._tokens(plan.items)
        most = np.zeros(len(plan)) if tokens is None else plan.batches.most(tokens)
        costs = plan.batches.sizes * self.cost.of(frames.astype(np.float64), most.astype(np.float64))
        return int(np.argmax(costs))

    def position_to_epoch(self, position: int) -> tuple[int, int]:
        """(epoch, number of the batch in it)."""
        return divmod(position, self.batches_per_epoch)

    def __getitem__(self, position: int) -> Batch:
        """This rank's share of the global batch at `position`."""
        return self.make(Share(epoch=self.position_to_epoch(position)[0], items=self.items(position)))

    def items(self, position: int) -> list[Item]:
        """What that batch is made of."""
        epoch, index = self.position_to_epoch(position)
        return self.plan(epoch)[index][self.rank :: self.world_size]

    def make(self, share: Share) -> Batch:
        """The batch of what a rank has been dealt."""
        augment = None if self.augment is None else _Augment(self.augment, self.seed, share.epoch)
        try:
            return make_batch(self.corpus, share.items, self.blank_id, augment).padded(self.config.pad_frames)
        except AudioError:  # only of audio that is read on the way
            items, replaced = _without_damage(self.corpus, share.items)
            batch = make_batch(self.corpus, items, self.blank_id, augment).padded(self.config.pad_frames)
            return replace(batch, replaced=replaced)

    def iterate(self, start_position: int) -> Iterator[Batch]:
        """Batches from a position on, without end. Raises what a loader process raised, if that is a UserError.

        Loader processes are forks: they share the indexes and have no plan of their own, but are told what to make.
        When one dies all are started again, and go on where they were; DataError when that does not help. DataError,
        too, for more damaged utterances than `max_dropped` allows.
        """
        position, deaths = start_position, 0
        damaged: dict[str, str] = {}
        while True:
            try:
                for made in self._load(position):
                    if isinstance(made, UserError):
                        raise made
                    self._judge(damaged, dict(made.replaced))
                    yield made
                    position, deaths = position + 1, 0
            except (RuntimeError, EOFError, OSError) as error:
                if not self.config.num_workers or not _is_death(error):
                    raise
                deaths += 1
                utt_ids = ", ".join(self.corpus.utt_ids[item[0].index] for item in self.items(position))
                where = f"a loader process died ({error!r}) near batch {position} of {utt_ids}"
                if deaths > _LOADER_RESTARTS:
                    raise DataError(
                        f"{where}, {deaths} times in a row; look for a shortage of memory, or train with "
                        "data.num_workers=0 to see what it dies of"
                    ) from error
                _log.warning("%s; started again", where)

    def _judge(self, damaged: dict[str, str], replaced: Mapping[str, str]) -> None:
        """Count what has been replaced."""
        fresh = {utt_id: reason for utt_id, reason in replaced.items() if utt_id not in damaged}
        damaged |= fresh
        for utt_id, reason in fresh.items():
            _log.warning("%s: replaced by another utterance of its batch (%s)", utt_id, reason)
        if fresh and len(damaged) > self.config.max_dropped * len(self.corpus.num_frames):
            listed = summarize([f"{utt_id}: {reason}" for utt_id, reason in damaged.items()])
            raise DataError(
                f"{len(damaged)} of {len(self.corpus.num_frames)} utterances have damaged audio, "
                f"{self.config.max_dropped:.2%} are put up with:\n{listed}\n"
                "  restore the files, leave them out with `w2vbert fix`, or raise data.max_dropped"
            )

    def _load(self, start_position: int) -> Iterator[Batch | UserError]:
        workers = self.config.num_workers
        loader: DataLoader[Batch | UserError] = DataLoader(
            _Shares(self),
            batch_size=None,
            sampler=_Dealt(self, start_position),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker if workers else None,
            multiprocessing_context="fork" if workers else None,
        )
        batches = iter(loader)
        if workers and threading.current_thread() is threading.main_thread():
            # torch would raise the death of a process wherever the training is; so it shows when a batch is asked for.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        yield from batches


class EvalLoader:
    """One pass over a data directory in a fixed order; `packed` as in training."""

    def __init__(self, corpus: Corpus, config: DataConfig, *, packed: bool, blank_id: int = 0) -> None:
        self.corpus, self.blank_id = corpus, blank_id
        self.digest = corpus.digest
        if packed:
            items = _crops(corpus, config, None)
        else:
            spoken = np.flatnonzero(corpus.num_frames)
            items = batching.whole(spoken, corpus.num_frames[spoken])
        batches = batching.batch_by_cost(items.frames, config.batch_seconds * FRAMES_PER_SECOND, None)
        self.plan = Plan(items=items, batches=batches)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self.plan)):
            yield make_batch(self.corpus, self.plan[number], self.blank_id, None)


def _is_death(error: Exception) -> bool:
    """Whether this is how a loader process that is no more shows: torch has noticed, or a batch is cut off."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    return "Caught" not in str(error)  # raised in the process itself, which is alive


def _without_damage(corpus: Corpus, items: Sequence[Item]) -> tuple[list[Item], tuple[tuple[str, str], ...]]:
    """The items, each damaged one replaced by the next whole one; and utt_id and reason of each that is damaged.

    Raises the first AudioError if none is whole.
    """
    errors: list[AudioError | None] = []
    for item in items:
        try:
            for piece in item:
                corpus.feats(piece)
            errors.append(None)
        except AudioError as error:
            errors.append(error)
    whole = [number for number, error in enumerate(errors) if error is None]
    if not whole:
        raise next(error for error in errors if error is not None)
    chosen = [next((n for n in whole if n >= number), whole[0]) for number in range(len(items))]
    replaced = [(corpus.utt_ids[item[0].index], str(e)) for item, e in zip(items, errors, strict=True) if e is not None]
    return [items[number] for number in chosen], tuple(replaced)


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
    tokens, utt_ids = [], []
    for item in items:
        first = item[0]
        whole = item == corpus.whole(first.index)
        tokens.append(corpus.tokens[first.index] if whole else [])
        utt_ids.append(corpus.utt_ids[first.index] + ("" if whole else f"@{first.start}"))

    def feats() -> Iterator[Tensor]:
        for item, utt_id in zip(items, utt_ids, strict=True):
            one = torch.cat([corpus.feats(piece) for piece in item])
            yield augment(one, utt_id) if augment else one

    return collate(feats(), list(map(batching.item_frames, items)), tokens, utt_ids, blank_id)


class _Shares(Dataset["Batch | UserError"]):
    """What a loader process makes of a share. Errors come back as they are: torch would raise others in their place."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __getitem__(self, share: Share) -> Batch | UserError:
        try:
            return self.loader.make(share)
        except UserError as error:
            return error


class _Dealt:
    """The shares of positions 0, 1, 2, ... from a start: the sampler of an endless loader."""

    def __init__(self, loader: TrainLoader, start: int) -> None:
        self.loader, self.start = loader, start

    def __iter__(self) -> Iterator[Share]:
        for position in itertools.count(self.start):
            epoch, _ = self.loader.position_to_epoch(position)
            yield Share(epoch=epoch, items=self.loader.items(position))


def _start_worker(_worker: int) -> None:
    """One thread, and a process group of its own: Ctrl-C and torchrun's SIGTERM are for the run to answer, which still
    needs its workers to finish the step."""
    torch.set_num_threads(1)
    os.setpgid(0, 0)
    leave_inherited_memory()
