"""Which utterances make which batch: pure functions of (what there is, configuration, seed, epoch).

Nothing here remembers anything, so any batch of any epoch can be made at once, on any rank. All are arrays: the plan of
an epoch over a million utterances takes a second and some tens of megabytes.
Dimension letters: N utterances, P pieces, I items, B batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
Number = TypeVar("Number", float, npt.NDArray[np.float64])


@dataclass(frozen=True)
class Piece:
    """Frames start to end - 1 of utterance number `index`."""

    index: int
    start: int
    end: int


ORDER = 1  # raise it when the same data and seed would give other batches
_STEP = 1.05  # lengths are rounded up to powers of it below the longest
_ROUNDING = 1 + 1e-9
Item = tuple[Piece, ...]  # an utterance, or pieces of one speaker joined into a crop


@dataclass(frozen=True, kw_only=True)
class Items:
    """Items as arrays: item i is pieces bounds[i] to bounds[i + 1] - 1."""

    indexes: npt.NDArray[np.int32]  # (P,) utterances
    starts: npt.NDArray[np.int32]  # (P,) frames
    ends: npt.NDArray[np.int32]  # (P,) frames
    bounds: npt.NDArray[np.int64]  # (I + 1,)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, number: int) -> Item:
        pieces = slice(self.bounds[number], self.bounds[number + 1])
        arrays = (array[pieces].tolist() for array in (self.indexes, self.starts, self.ends))
        return tuple(Piece(index, start, end) for index, start, end in zip(*arrays, strict=True))

    def __iter__(self) -> Iterator[Item]:
        return (self[number] for number in range(len(self)))

    @property
    def frames(self) -> Ints:
        """(I,) frames of each."""
        total = np.concatenate([[0], np.cumsum(self.ends - self.starts, dtype=np.int64)])
        return np.diff(total[self.bounds])

    @property
    def first(self) -> Ints:
        """(I,) the utterance of each one's first piece."""
        return self.indexes[self.bounds[:-1]]


def whole(indexes: Ints, num_frames: Ints) -> Items:
    """Items that are whole utterances: their numbers and, in the same order, their frames."""
    return Items(
        indexes=indexes.astype(np.int32),
        starts=np.zeros(len(indexes), dtype=np.int32),
        ends=num_frames.astype(np.int32),
        bounds=np.arange(len(indexes) + 1),
    )


def pack_speakers(
    num_frames: npt.ArrayLike,
    speakers: npt.ArrayLike,
    max_frames: int,
    min_frames: int,
    rng: np.random.Generator | None,
) -> Items:
    """Crops of up to `max_frames`, each of one speaker: his utterances in random order, joined and cut.

    num_frames, speakers: (N,), of each utterance; speakers are numbers or names, and crops are in their order. Every
    frame is used once, but for a rest shorter than `min_frames` at a speaker's end. Without `rng` in given order.
    """
    frames, speaker = np.asarray(num_frames, dtype=np.int64), np.asarray(speakers)
    order = np.arange(len(frames)) if rng is None else rng.permutation(len(frames))
    order = order[frames[order] > 0]
    order = order[np.argsort(speaker[order], kind="stable")]
    frames, speaker = frames[order], speaker[order]
    # Where an utterance begins and ends among all frames, and then among those of its speaker.
    ends = np.cumsum(frames)
    opens = _changes(speaker)
    number = np.cumsum(opens) - 1  # of the speaker
    ends -= (ends - frames)[opens][number]
    starts = ends - frames
    said = ends[np.append(opens, True)[1:]]  # by each speaker, without what is too short for a crop
    said -= np.where(said % max_frames < min_frames, said % max_frames, 0)
    ends = np.minimum(ends, said[number])
    # The crops that an utterance lies in: a piece in each.
    first = starts // max_frames
    count = np.maximum((ends - 1) // max_frames - first + 1, 0)
    owner = np.repeat(np.arange(len(order)), count)
    crop = np.arange(len(owner)) - (np.cumsum(count) - count - first)[owner]
    begin = starts[owner]
    return Items(
        indexes=order[owner].astype(np.int32),
        starts=(np.maximum(begin, crop * max_frames) - begin).astype(np.int32),
        ends=(np.minimum(ends[owner], (crop + 1) * max_frames) - begin).astype(np.int32),
        bounds=np.append(np.flatnonzero(_changes(number[owner]) | _changes(crop)), len(owner)),
    )


def _changes(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where another value than before begins; True at the first."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def item_frames(item: Item) -> int:
    """Frames of an item."""
    return sum(piece.end - piece.start for piece in item)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a padded item costs, in frames (10 ms): itself, its tokens, and its lattice of frames times tokens."""

    per_token: float = 0.0
    per_cell: float = 0.0

    def of(self, num_frames: Number, num_tokens: Number) -> Number:
        """The cost of one item of a batch whose longest item has so many frames and tokens."""
        return num_frames + self.per_token * num_tokens + self.per_cell * num_frames * num_tokens


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches as arrays: batch b is items order[bounds[place[b]]] to order[bounds[place[b] + 1] - 1]."""

    order: npt.NDArray[np.int32]  # (I,) items
    bounds: npt.NDArray[np.int64]  # (B + 1,)
    place: npt.NDArray[np.int64]  # (B,)

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, number: int) -> Ints:
        place = self.place[number]
        return self.order[self.bounds[place] : self.bounds[place + 1]]

    def __iter__(self) -> Iterator[Ints]:
        return (self[number] for number in range(len(self)))

    @property
    def sizes(self) -> Ints:
        """(B,) items of each."""
        return np.diff(self.bounds)[self.place]

    def most(self, values: Ints) -> Ints:
        """(B,) the largest of some (I,) values of items in each."""
        return np.maximum.reduceat(values[self.order], self.bounds[:-1])[self.place]


def batch_by_cost(
    lengths: npt.ArrayLike,
    budget: float,
    rng: np.random.Generator | None,
    num_tokens: npt.ArrayLike | None = None,
    cost: Cost | None = None,
) -> Batches:
    """Batches of like lengths whose cost (of a padded item times their number) is at most `budget`; one item at least.

    lengths, num_tokens: (I,) of each item. Lengths are rounded up to a grid of 5 % steps below the longest, tokens to
    the most of the step. Items of one step are in random order and the batches are shuffled (with `rng`), while the
    steps, and so the sizes and the number of batches, are the same in every epoch.
    """
    cost, frames = cost or Cost(), np.asarray(lengths, dtype=np.int64)
    tokens = np.zeros(len(frames), dtype=np.int64) if num_tokens is None else np.asarray(num_tokens)
    top = max(int(frames.max(initial=1)), 1)
    grid = top * _STEP ** -np.arange(math.ceil(math.log(top, _STEP)) + 1.0)  # the lengths that are rounded to
    step = (np.searchsorted(-grid, -frames, side="right") - 1).astype(np.int16)
    order = np.arange(len(frames)) if rng is None else rng.permutation(len(frames))
    order = order[np.argsort(-step[order], kind="stable")]  # the shortest first
    begins = np.flatnonzero(_changes(step[order]))
    counts = np.diff(np.append(begins, len(order))).tolist()
    most = np.maximum.reduceat(tokens[order], begins).tolist() if counts else []
    longest = grid[step[order[begins]]].tolist()
    sizes = _sizes(longest, counts, most, budget * _ROUNDING, cost)
    bounds = np.append(0, np.cumsum(np.asarray(sizes, dtype=np.int64)))
    place = np.arange(len(sizes)) if rng is None else rng.permutation(len(sizes))
    return Batches(order=order.astype(np.int32), bounds=bounds, place=place)


def _sizes(longest: list[float], counts: list[int], most: list[int], budget: float, cost: Cost) -> list[int]:
    """Items of each batch, filled in turn from steps of so many items, so long and with at most so many tokens."""
    sizes: list[int] = []
    tokens = 0  # the most of the open batch's steps
    for frames, count, own in zip(longest, counts, most, strict=True):
        if sizes:
            tokens = max(tokens, own)
            taken = min(max(int(budget // cost.of(frames, tokens)) - sizes[-1], 0), count)
            sizes[-1] += taken
            count -= taken
        if count:
            full = max(int(budget // cost.of(frames, own)), 1)
            sizes += [full] * (count // full) + [count % full] * bool(count % full)
            tokens = own
    if len(sizes) > 1:  # the last one is what was left: it gets its half of the last two, if that fits
        both = sizes[-2] + sizes[-1]
        larger = both - both // 2
        if larger > sizes[-1] and cost.of(longest[-1], max(most)) * larger <= budget:
            sizes[-2:] = [both - larger, larger]
    return sizes
