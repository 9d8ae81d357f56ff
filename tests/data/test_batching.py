"""Packing and batching: every frame once, one speaker a crop, bounds kept, the same batch count in every epoch."""

from collections import Counter

import numpy as np
import pytest

from w2vbert_asr.data.batching import Batches, Cost, Item, Piece, batch_by_cost, item_frames, pack_speakers, whole

LENGTHS = [120, 700, 35, 410, 90, 2000, 333, 51]
SPEAKERS = ["b", "a", "b", "a", "c", "a", "b", "d"]


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def lists(batches: Batches) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def pack_slowly(lengths: list[int], speakers: list[str], most: int, least: int, order: list[int]) -> list[Item]:
    """Crops made one by one of utterances in the order given."""
    items: list[Item] = []
    for speaker in sorted(set(speakers)):
        crop: list[Piece] = []
        room = most
        for index in (one for one in order if speakers[one] == speaker):
            start = 0
            while start < lengths[index]:
                end = min(start + room, lengths[index])
                crop.append(Piece(index, start, end))
                room, start = room - (end - start), end
                if room == 0:
                    items.append(tuple(crop))
                    crop, room = [], most
        if crop and most - room >= least:
            items.append(tuple(crop))
    return items


def batch_slowly(lengths: list[int], budget: float, tokens: list[int], cost: Cost) -> list[int]:
    """Sizes of batches filled item by item, the shortest first."""
    grid = [max(lengths) * 1.05**-k for k in range(300)]
    rounded = [min(one for one in grid if one >= length) for length in lengths]
    most = {length: max(n for one, n in zip(rounded, tokens, strict=True) if one == length) for length in rounded}
    sizes: list[int] = []
    tokens_of_batch = 0
    for length in sorted(rounded):
        tokens_of_batch = max(tokens_of_batch, most[length])
        if sizes and cost.of(length, tokens_of_batch) * (sizes[-1] + 1) <= budget * (1 + 1e-9):
            sizes[-1] += 1
        else:
            sizes.append(1)
            tokens_of_batch = most[length]
    return sizes


@pytest.mark.parametrize("seed", range(20))
def test_packing_is_that_of_a_slow_loop(seed: int) -> None:
    generator = rng(seed)
    count, most, least = (int(generator.integers(low, high)) for low, high in ((0, 40), (1, 300), (1, 60)))
    lengths = generator.integers(0, 400, size=count).tolist()
    speakers = [f"s{number}" for number in generator.integers(0, 6, size=count)]
    found = pack_speakers(lengths, speakers, most, least, None)
    expected = pack_slowly(lengths, speakers, most, least, list(range(count)))
    assert list(found) == expected
    assert found.frames.tolist() == list(map(item_frames, expected))
    assert found.first.tolist() == [item[0].index for item in expected]
    shuffled = pack_speakers(lengths, np.unique(speakers, return_inverse=True)[1], most, least, rng(seed))
    order = rng(seed).permutation(count).tolist()
    assert list(shuffled) == pack_slowly(lengths, speakers, most, least, order)


@pytest.mark.parametrize("seed", range(20))
def test_sizes_of_batches_are_those_of_a_slow_loop(seed: int) -> None:
    generator = rng(seed)
    lengths = generator.integers(0, 2000, size=int(generator.integers(1, 300))).tolist()
    tokens = generator.integers(0, 60, size=len(lengths)).tolist()
    cost = Cost(per_token=float(generator.integers(0, 3)), per_cell=float(generator.integers(0, 2)) / 100)
    budget = float(generator.integers(500, 20_000))
    expected = batch_slowly(lengths, budget, tokens, cost)
    found = [len(batch) for batch in batch_by_cost(lengths, budget, None, tokens, cost)]
    assert found[:-2] == expected[:-2] and sum(found) == sum(expected)
    assert found[-2:] == expected[-2:] or found[-1] - found[-2] in (0, 1)  # what was left is shared out
    shuffled = batch_by_cost(lengths, budget, rng(seed), tokens, cost)
    assert sorted(shuffled.sizes.tolist()) == sorted(found)
    most = [max(lengths[index] for index in batch) for batch in shuffled]
    assert shuffled.most(np.asarray(lengths)).tolist() == most


def test_whole_utterances() -> None:
    items = whole(np.asarray([3, 1]), np.asarray([7, 9]))
    assert list(items) == [(Piece(3, 0, 7),), (Piece(1, 0, 9),)] and items.frames.tolist() == [7, 9]


def test_nothing_makes_no_batch() -> None:
    assert len(pack_speakers([], [], 100, 1, rng(0))) == len(pack_speakers([5, 7], ["a", "b"], 100, 50, rng(0))) == 0
    assert len(batch_by_cost([], 100, rng(0))) == 0


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
    dear = batch_by_cost([5, 5, 5, 5], 20.0, None, [0, 0, 3, 3], Cost(per_cell=1.0))
    assert lists(dear) == [[0], [1], [2], [3]]


def test_an_item_longer_than_the_bound_is_a_batch_of_its_own() -> None:
    assert sorted(lists(batch_by_cost([10, 5000, 12], 100, None))) == [[0, 2], [1]]


def test_order_is_a_function_of_the_generator() -> None:
    lengths = list(range(100, 200))
    assert lists(batch_by_cost(lengths, 900, rng(3))) == lists(batch_by_cost(lengths, 900, rng(3)))
    assert lists(batch_by_cost(lengths, 900, rng(3))) != lists(batch_by_cost(lengths, 900, rng(4)))
