"""Which utterances make which batch: pure functions of (what there is, configuration, seed, epoch).

Nothing here remembers anything, so any batch of any epoch can be made at once, by any worker, on any rank.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Frames start to end - 1 of utterance number `index`."""

    index: int
    start: int
    end: int


_GRID = math.log(1.05)
_ROUNDING = 1 + 1e-9
Item = tuple[Piece, ...]  # an utterance, or pieces of one speaker joined into a crop


def pack_speakers(
    num_frames: Sequence[int],
    speakers: Sequence[str],
    max_frames: int,
    min_frames: int,
    rng: np.random.Generator | None,
) -> list[Item]:
    """Crops of up to `max_frames`, each of one speaker: his utterances in random order, joined and cut.

    Every frame is used once, but for a rest shorter than `min_frames` at a speaker's end. Without `rng` in given order.
    """
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for index, speaker in enumerate(speakers):
        by_speaker[speaker].append(index)
    items: list[Item] = []
    for speaker in sorted(by_speaker):
        order = by_speaker[speaker] if rng is None else rng.permutation(by_speaker[speaker]).tolist()
        crop: list[Piece] = []
        room = max_frames
        for index in order:
            start = 0
            while start < num_frames[index]:
                end = min(start + room, num_frames[index])
                crop.append(Piece(index, start, end))
                room -= end - start
                start = end
                if room == 0:
                    items.append(tuple(crop))
                    crop, room = [], max_frames
        if max_frames - room >= min_frames:
            items.append(tuple(crop))
    return items


def item_frames(item: Item) -> int:
    """Frames of an item."""
    return sum(piece.end - piece.start for piece in item)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a padded item costs, in frames (10 ms): itself, its tokens, and its lattice of frames times tokens."""

    per_token: float = 0.0
    per_cell: float = 0.0

    def of(self, num_frames: float, num_tokens: float) -> float:
        """The cost of one item of a batch whose longest item has so many frames and tokens."""
        return num_frames + self.per_token * num_tokens + self.per_cell * num_frames * num_tokens


def batch_by_cost(
    lengths: Sequence[int],
    budget: float,
    rng: np.random.Generator | None,
    num_tokens: Sequence[int] | None = None,
    cost: Cost | None = None,
) -> list[list[int]]:
    """Batches of like lengths whose cost (of a padded item times their number) is at most `budget`; one item at least.

    Lengths are rounded up to a grid of 5 % steps below the longest, tokens to the most of the step. Items of one step
    are in random order and the batches are shuffled (with `rng`), while the steps, and so the sizes and the number of
    batches, are the same in every epoch.
    """
    cost, num_tokens = cost or Cost(), num_tokens or [0] * len(lengths)
    top = max(lengths, default=1)
    steps = [-math.floor(math.log(top / max(length, 1)) / _GRID) for length in lengths]
    most: dict[int, int] = defaultdict(int)
    for step, number in zip(steps, num_tokens, strict=True):
        most[step] = max(most[step], number)
    ties = np.arange(len(steps)) if rng is None else rng.permutation(len(steps))
    batches: list[list[int]] = []
    tokens = 0  # the most of the open batch's steps
    for index in np.lexsort((ties, np.asarray(steps))).tolist():
        longest = top * math.exp(steps[index] * _GRID)
        tokens = max(tokens, most[steps[index]])
        if batches and cost.of(longest, tokens) * (len(batches[-1]) + 1) <= budget * _ROUNDING:
            batches[-1].append(index)
        else:
            batches.append([index])
            tokens = most[steps[index]]
    if len(batches) > 1:  # the last one is what was left: it gets its half of the last two, if that fits
        both = batches[-2] + batches[-1]
        half = len(both) // 2
        dearest = cost.of(top, max(most.values()))
        if len(both) - half > len(batches[-1]) and dearest * (len(both) - half) <= budget * _ROUNDING:
            batches[-2:] = [both[:half], both[half:]]
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches)).tolist()]
