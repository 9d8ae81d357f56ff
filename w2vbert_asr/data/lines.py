"""Sentences packed into rows of like length, and loaders of them: what a language model is trained on.

A row holds whole sentences with blank between them. Which ones share a row is settled once, at random; an epoch takes
the rows in an order of its own. So the batch at any position is a pure function of (sentences, configuration, seed).
Dimension letters: N sentences, M tokens of all, R rows.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from w2vbert_asr.batch import Batch
from w2vbert_asr.counter_random import draw_key
from w2vbert_asr.errors import ConfigError, DataError

Array = NDArray[np.int64]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """row_tokens: word pieces and ends in a row; a longer sentence is left out. batch_rows: rows of a global batch."""

    row_tokens: int = 256
    batch_rows: int = 16

    def problems(self) -> list[str]:
        """What is out of range."""
        least = {"row_tokens": 2, "batch_rows": 1}
        return [
            f"{name}: expected at least {low}, found {getattr(self, name)}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """tokens (M,): of all sentences, one behind the other; bounds (N + 1,): where they begin."""

    tokens: NDArray[np.int32]
    bounds: Array

    @staticmethod
    def of(sentences: Iterable[Sequence[int]], where: str) -> Lines:
        """Sentences of token ids without the empty ones; DataError if none is left, with `where` they come from."""
        tokens, bounds = array("i"), array("q", [0])
        for sentence in sentences:
            if sentence:
                tokens.extend(sentence)
                bounds.append(len(tokens))
        if len(bounds) == 1:
            raise DataError(f"{where}: no words; give text files with sentences")
        return Lines(tokens=np.frombuffer(tokens, dtype=np.int32), bounds=np.frombuffer(bounds, dtype=np.int64))

    def digest(self, config: LineConfig) -> str:
        """SHA-256 of the sentences and of how they are packed."""
        digest = hashlib.sha256(f"{config.row_tokens} {config.batch_rows}\n".encode())
        for part in (self.tokens, self.bounds):
            digest.update(part.tobytes())
        return digest.hexdigest()


class _Rows:
    """Sentences in the given order, as many to a row as fit."""

    def __init__(self, lines: Lines, order: Array, row_tokens: int, blank_id: int) -> None:
        sizes = np.diff(lines.bounds)[order] + 1
        fits = sizes <= row_tokens
        if not fits.all():
            _log.warning("%d of %d sentences are longer than data.row_tokens and left out", (~fits).sum(), len(fits))
        if not fits.any():
            raise ConfigError(f"data.row_tokens: {row_tokens} is shorter than every sentence; raise it")
        self.lines, self.order, self.blank_id = lines, order[fits], blank_id
        ends = np.cumsum(sizes[fits])
        firsts, before = [0], 0
        while firsts[-1] < len(ends):
            firsts.append(int(np.searchsorted(ends, before + row_tokens, side="right")))
            before = int(ends[firsts[-1] - 1])
        self.firsts = firsts

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def row(self, number: int) -> list[int]:
        """The tokens of a row."""
        tokens: list[int] = []
        for index in self.order[self.firsts[number] : self.firsts[number + 1]]:
            tokens += [
                self.blank_id,
                *self.lines.tokens[self.lines.bounds[index] : self.lines.bounds[index + 1]].tolist(),
            ]
        return tokens[1:]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Some rows, without features."""
        rows = [torch.tensor(self.row(number)) for number in numbers]
        lens = torch.tensor([len(row) for row in rows])
        return Batch(
            feats=torch.zeros(len(rows), 0, 0),
            feat_lens=torch.zeros_like(lens),
            tokens=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.blank_id),
            token_lens=lens,
            utt_ids=tuple(f"row-{number:08d}" for number in numbers),
        )


class LineTrainLoader:
    """Batches by position, as the trainer asks for them; a global batch is dealt to the ranks in turn.

    The rows that do not fill a batch at the end of an epoch are left out; they are others in each.
    """

    def __init__(
        self, lines: Lines, config: LineConfig, *, seed: int, blank_id: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.digest = lines.digest(config)
        order = self._random(0, "pack").permutation(len(lines.bounds) - 1)
        self.rows = _Rows(lines, order, config.row_tokens, blank_id)
        self.batch_rows = min(config.batch_rows, len(self.rows))
        if self.batch_rows < world_size:
            raise ConfigError(f"data.batch_rows: a batch has only {self.batch_rows} row(s) for {world_size} ranks")
        self.batches_per_epoch = len(self.rows) // self.batch_rows
        self.permutation = lru_cache(maxsize=2)(self._permutation)

    def _random(self, epoch: int, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(draw_key(self.seed, epoch, self.digest, purpose) % 2**63))

    def _permutation(self, epoch: int) -> Array:
        return self._random(epoch, "order").permutation(len(self.rows))

    def position_to_epoch(self, position: int) -> tuple[int, int]:
        """(epoch, number of the batch in it)."""
        return divmod(position, self.batches_per_epoch)

    def __getitem__(self, position: int) -> Batch:
        """This rank's share of the global batch at `position`."""
        epoch, index = self.position_to_epoch(position)
        first = index * self.batch_rows
        numbers = self.permutation(epoch)[first : first + self.batch_rows][self.rank :: self.world_size]
        return self.rows.batch(numbers.tolist())

    def iterate(self, start_position: int) -> Iterator[Batch]:
        """Batches from a position on, without end."""
        return (self[position] for position in itertools.count(start_position))

    def dearest(self) -> Batch:
        """All batches cost about the same."""
        return self[0]


class LineEvalLoader:
    """One pass over sentences in their order."""

    def __init__(self, lines: Lines, config: LineConfig, *, blank_id: int) -> None:
        self.digest, self.batch_rows = lines.digest(config), config.batch_rows
        longest = int(np.diff(lines.bounds).max()) + 1  # none is left out
        order = np.arange(len(lines.bounds) - 1)
        self.rows = _Rows(lines, order, max(config.row_tokens, longest), blank_id)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.rows), self.batch_rows):
            yield self.rows.batch(range(first, min(first + self.batch_rows, len(self.rows))))
