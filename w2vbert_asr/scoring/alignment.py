"""Edit distance with its alignment, over words or characters, for many pairs at once.

An alignment is a string of one letter a step, in order: C correct, S substitution, D deletion (of a reference token),
I insertion (of a hypothesis token). The cheapest alignment is often not the only one, and the counts depend on
which is taken: with unit costs the one that rapidfuzz takes (and so jiwer), with others the one that sclite takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

Tokens = Sequence[str]
"""A list of words, or a plain string for its characters."""


class Weights(NamedTuple):
    """Costs of a substitution, a deletion and an insertion."""

    sub: int
    del_: int
    ins: int


UNIT = Weights(1, 1, 1)
SCLITE = Weights(4, 3, 3)

_LETTERS = {"replace": "S", "delete": "D", "insert": "I"}
_C, _S, _D, _I = b"CSDI"
_MAX_CELLS = 1 << 22


def align(refs: Sequence[Tokens], hyps: Sequence[Tokens], weights: Weights = UNIT) -> list[str]:
    """The cheapest alignment of each reference with its hypothesis, as strings of C, S, D and I.

    `refs` and `hyps` are lists of the same length; tokens are equal or not, nothing in between. An empty sequence is
    legal on either side.
    """
    if weights == UNIT:
        return [_align_unit(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]
    ends = [_common_ends(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]
    pairs = [
        (ref[head : len(ref) - tail], hyp[head : len(hyp) - tail])
        for ref, hyp, (head, tail) in zip(refs, hyps, ends, strict=True)
    ]
    found = [""] * len(pairs)
    for batch in _batches(pairs):
        for index, steps in zip(batch, _align_batch([pairs[index] for index in batch], weights), strict=True):
            head, tail = ends[index]
            found[index] = "C" * head + steps + "C" * tail
    return found


def pair_up(ref: Tokens, hyp: Tokens, steps: str) -> list[tuple[str | None, str | None]]:
    """The tokens of each step of an alignment: None stands where the reference or the hypothesis has no token."""
    ref_tokens, hyp_tokens = iter(ref), iter(hyp)
    return [(None if step == "I" else next(ref_tokens), None if step == "D" else next(hyp_tokens)) for step in steps]


def _align_unit(ref: Tokens, hyp: Tokens) -> str:
    if ref == hyp:
        return "C" * len(ref)
    steps, done = [], 0  # done: reference tokens that have their letter
    edits = cast("list[tuple[str, int, int]]", Levenshtein.editops(ref, hyp).as_list())  # faster than its own objects
    for tag, place, _ in edits:
        steps.append("C" * (place - done) + _LETTERS[tag])
        done = place if tag == "insert" else place + 1
    steps.append("C" * (len(ref) - done))
    return "".join(steps)


def _common_ends(ref: Tokens, hyp: Tokens) -> tuple[int, int]:
    """How many first and how many last tokens are the same.

    Aligning these with each other is always cheapest, and the choice among ties in between stays the same, so that
    leaving them out of the table changes no count.
    """
    shorter = min(len(ref), len(hyp))
    head = next((i for i in range(shorter) if ref[i] != hyp[i]), shorter)
    left = shorter - head
    return head, next((i for i in range(left) if ref[-1 - i] != hyp[-1 - i]), left)


def _batches(pairs: Sequence[tuple[Tokens, Tokens]]) -> Iterator[list[int]]:
    """Indices of pairs of like lengths, so that padding is short and a batch holds at most _MAX_CELLS cells."""
    batch: list[int] = []
    rows = columns = 0
    for index in sorted(range(len(pairs)), key=lambda index: (len(pairs[index][0]), len(pairs[index][1]))):
        height, width = len(pairs[index][0]) + 1, len(pairs[index][1]) + 1
        rows, columns = max(rows, height), max(columns, width)
        if batch and rows * columns * (len(batch) + 1) > _MAX_CELLS:
            yield batch
            batch, rows, columns = [], height, width
        batch.append(index)
    if batch:
        yield batch


def _align_batch(pairs: Sequence[tuple[Tokens, Tokens]], weights: Weights) -> list[str]:
    """Dynamic programming, a row of the table at a time over all P pairs, then the way back from each pair's corner.

    The table holds the letter by which a cell is reached at least cost. On a tie the diagonal comes before the
    insertion and the insertion before the deletion, which is what sclite does.
    """
    index: dict[str, int] = {}
    ref_lens, ref = _pad([ref for ref, _ in pairs], index, padding=-1)
    hyp_lens, hyp = _pad([hyp for _, hyp in pairs], index, padding=-2)
    rows, columns, width = len(ref), len(hyp), len(pairs)
    dtype: Any = np.int16 if max(weights) * (rows + columns) < 1 << 15 else np.int32
    sub, del_, ins = map(dtype, weights)
    inserted: npt.NDArray[Any] = np.arange(columns + 1, dtype=dtype)[:, None] * ins  # cost of j insertions
    letters = np.zeros((rows + 1, columns + 1, width), np.uint8)
    letters[0, 1:] = _I
    letters[1:, 0] = _D
    above = np.repeat(inserted, width, axis=1)
    for i in range(rows):
        equal = hyp == ref[i]
        diagonal = above[:-1] + np.where(equal, dtype(0), sub)
        best = above + del_
        np.minimum(best[1:], diagonal, out=best[1:])
        # every insertion adds the same, so the best run of them is a running minimum of the costs less that
        row = np.minimum.accumulate(best - inserted, axis=0) + inserted
        sideways = np.where(row[1:] == row[:-1] + ins, np.uint8(_I), np.uint8(_D))
        letters[i + 1, 1:] = np.where(row[1:] == diagonal, np.where(equal, np.uint8(_C), np.uint8(_S)), sideways)
        above = row
    return _walk_back(letters, ref_lens, hyp_lens)


def _walk_back(letters: npt.NDArray[np.uint8], i: npt.NDArray[Any], j: npt.NDArray[Any]) -> list[str]:
    """The letters from cell (i, j) of each pair back to (0, 0), in forward order; `letters` is (I + 1, J + 1, P)."""
    steps = np.zeros((len(i), int((i + j).max(initial=0))), np.uint8)
    pair = np.arange(len(i))
    for step in range(steps.shape[1] - 1, -1, -1):
        letter = letters[i, j, pair]  # 0 at (0, 0), where a pair stays
        steps[:, step] = letter
        i = i - ((letter != 0) & (letter != _I))
        j = j - ((letter != 0) & (letter != _D))
    return [row.tobytes().lstrip(b"\0").decode("ascii") for row in steps]


def _pad(sequences: Sequence[Tokens], index: dict[str, int], padding: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Lengths (P,) and token numbers (longest, P); `index` numbers the tokens as they come."""
    lens = np.array([len(sequence) for sequence in sequences], np.intp)
    padded = np.full((int(lens.max(initial=0)), len(sequences)), padding, np.int32)
    for column, sequence in enumerate(sequences):
        padded[: len(sequence), column] = [index.setdefault(token, len(index)) for token in sequence]
    return lens, padded
