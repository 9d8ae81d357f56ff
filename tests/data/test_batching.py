"""Packing and batching: every frame once, one speaker a crop, bounds kept, the same batch count in every epoch."""

from collections import Counter

import numpy as np
import pytest

from w2vbert_asr.data.batching import Cost, batch_by_cost, item_frames, pack_speakers

LENGTHS = [120, 700, 35, 410, 90, 2000, 333, 51]
SPEAKERS = ["b", "a", "b", "a", "c", "a", "b", "d"]


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("seed", range(5))
def test_packing_uses_every_frame_once_and_never_mixes_speakers(seed: int) -> None:
    items = pack_speakers(LENGTHS, SPEAKERS, 500, 1, rng(seed))
    used = Counter((piece.index, frame) for item in items for piece in item for frame in range(piece.start, piece.end))
    assert set(used.values()) == {1} and len(used) == sum(LENGTHS)
    assert all(len({SPEAKERS[piece.index] for piece in item}) == 1 for item in items)
    assert max(map(item_frames, items)) == 500


def test_packing_leaves_out_only_short_rests() -> None:
    items = pack_speakers(LENGTHS, SPEAKERS, 500, 60, rng(0))
    lost = sum(LENGTHS) - sum(map(item_frames, items))
    assert lost == 51  # all that speaker d said


def test_crop_lengths_are_the_same_in_every_epoch_but_their_contents_are_not() -> None:
    epochs = [pack_speakers(LENGTHS, SPEAKERS, 500, 1, rng(seed)) for seed in range(4)]
    assert len({tuple(sorted(map(item_frames, items))) for items in epochs}) == 1
    assert len({tuple(items) for items in epochs}) > 1


def test_batches_hold_every_item_once_within_their_bound() -> None:
    lengths = rng(1).integers(20, 900, size=300).tolist()
    sizes = set()
    for seed in range(4):
        batches = batch_by_cost(lengths, 3000, rng(seed))
        assert sorted(index for batch in batches for index in batch) == list(range(300))
        assert all(max(lengths[i] for i in batch) * len(batch) <= 3000 for batch in batches)
        sizes.add(tuple(sorted(map(len, batches))))
    assert len(sizes) == 1
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert sum(lengths) / padded > 0.93  # little padding


def test_tokens_and_cells_count_in_the_bound() -> None:
    generator = rng(2)
    lengths = generator.integers(20, 900, size=300).tolist()
    tokens = [int(length * generator.uniform(0.02, 0.2)) for length in lengths]
    cost = Cost(per_token=2.0, per_cell=0.01)
    sizes, budget = set(), 3000.0
    for seed in range(4):
        batches = batch_by_cost(lengths, budget, rng(seed), tokens, cost)
        assert sorted(index for batch in batches for index in batch) == list(range(300))
        for batch in batches:
            frames, most = max(lengths[i] for i in batch), max(tokens[i] for i in batch)
            own = frames + 2.0 * most + 0.01 * frames * most
            assert len(batch) == 1 or own * len(batch) <= budget
        sizes.add(tuple(sorted(map(len, batches))))
    assert len(sizes) == 1
    assert len(batches) > 1.2 * len(batch_by_cost(lengths, budget, rng(0)))
    assert batch_by_cost([5, 5, 5, 5], 20.0, None, [0, 0, 3, 3], Cost(per_cell=1.0)) == [[0], [1], [2], [3]]


def test_an_item_longer_than_the_bound_is_a_batch_of_its_own() -> None:
    assert sorted(batch_by_cost([10, 5000, 12], 100, None)) == [[0, 2], [1]]


def test_order_is_a_function_of_the_generator() -> None:
    lengths = list(range(100, 200))
    assert batch_by_cost(lengths, 900, rng(3)) == batch_by_cost(lengths, 900, rng(3))
    assert batch_by_cost(lengths, 900, rng(3)) != batch_by_cost(lengths, 900, rng(4))
