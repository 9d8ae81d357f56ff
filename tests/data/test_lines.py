"""Packing loses nothing and mixes nothing; order by seed and epoch; ranks share a batch."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from w2vbert_asr.batch import Batch
from w2vbert_asr.data.lines import LineConfig, LineEvalLoader, Lines, LineTrainLoader
from w2vbert_asr.errors import ConfigError, DataError

Sentence = tuple[int, ...]


def sample(count: int, seed: int = 0) -> list[Sentence]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(1, 50) for _ in range(rng.randrange(1, 12))) for _ in range(count)]


def unpack(batch: Batch) -> list[Sentence]:
    """The sentences of a batch, split at blank."""
    found: list[Sentence] = []
    for row, length in zip(batch.tokens.tolist(), batch.token_lens.tolist(), strict=True):
        own: list[int] = []
        for token in [*row[:length], 0]:
            if token:
                own.append(token)
            else:
                found.append(tuple(own))
                own = []
        assert not any(row[length:])
    return found


def loader(sentences: list[Sentence], seed: int = 1, rank: int = 0, size: int = 1, rows: int = 4) -> LineTrainLoader:
    config = LineConfig(row_tokens=30, batch_rows=rows)
    return LineTrainLoader(Lines.of(sentences, "here"), config, seed=seed, blank_id=0, rank=rank, world_size=size)


def test_an_epoch_has_every_sentence_once() -> None:
    sentences = sample(200)
    made = loader(sentences, rows=1)
    for epoch in (0, 1):
        first = epoch * made.batches_per_epoch
        batches = [made[first + index] for index in range(made.batches_per_epoch)]
        assert Counter(one for batch in batches for one in unpack(batch)) == Counter(sentences)
        sizes = [int(batch.token_lens.sum()) + 1 for batch in batches]
        assert max(sizes) <= 30 and sorted(sizes)[1] > 30 - 12  # full but for the last
        assert {made.position_to_epoch(first), made.position_to_epoch(first + made.batches_per_epoch - 1)} == {
            (epoch, 0),
            (epoch, made.batches_per_epoch - 1),
        }


def test_the_order_is_a_function_of_seed_and_position() -> None:
    sentences = sample(200)
    first, again, other = loader(sentences), loader(sentences), loader(sentences, seed=2)
    batches = first.iterate(0)
    for position in range(2 * first.batches_per_epoch + 1):
        batch = next(batches)
        assert unpack(batch) == unpack(again[position]) and batch.utt_ids == again[position].utt_ids
    assert first.digest == other.digest != loader(sentences[1:]).digest
    assert unpack(first[0]) != unpack(other[0]) and unpack(first[0]) != unpack(first[first.batches_per_epoch])
    assert unpack(first.dearest()) == unpack(first[0])


def test_ranks_share_a_batch() -> None:
    sentences = sample(200)
    whole, ranks = loader(sentences, rows=5), [loader(sentences, rank=rank, size=2, rows=5) for rank in range(2)]
    for position in range(7):
        parts = [one[position] for one in ranks]
        assert [len(part.utt_ids) for part in parts] == [3, 2]
        assert sorted(id for part in parts for id in part.utt_ids) == sorted(whole[position].utt_ids)
    with pytest.raises(ConfigError, match="batch_rows"):
        loader(sentences[:3], rank=0, size=8)


def test_evaluation_sees_all_in_their_order() -> None:
    sentences = [*sample(50), tuple(range(1, 45))]
    made = LineEvalLoader(Lines.of(sentences, "here"), LineConfig(row_tokens=30, batch_rows=4), blank_id=0)
    for _ in range(2):
        assert [one for batch in made for one in unpack(batch)] == sentences


def test_what_cannot_be_used() -> None:
    with pytest.raises(DataError, match="dev: no words"):
        Lines.of([(), ()], "dev")
    with pytest.raises(ConfigError, match="row_tokens"):
        loader([tuple(range(1, 40))])
    mixed = loader([tuple(range(1, 40)), (1, 2), ()], rows=1)
    assert unpack(mixed[0]) == [(1, 2)] and mixed.batches_per_epoch == 1
    assert [one.split(":")[0] for one in LineConfig(row_tokens=1, batch_rows=0).problems()] == [
        "row_tokens",
        "batch_rows",
    ]
