"""The calibration of confidences against a search over all monotone maps, and NIST's measure by hand."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from w2vbert_asr.scoring.calibration import Calibration, fit, normalized_cross_entropy, pool_violators


def least_squares(confidences: list[float], correct: list[bool]) -> float:
    """The least sum of squares of any non-decreasing map: over all ways to pool neighbours."""
    values = sorted(set(confidences))
    groups = [[right for one, right in zip(confidences, correct, strict=True) if one == value] for value in values]
    best = math.inf
    for cuts in itertools.product((False, True), repeat=len(groups) - 1):
        pools = [list(groups[0])]
        for cut, group in zip(cuts, groups[1:], strict=True):
            if cut:
                pools.append(list(group))
            else:
                pools[-1] += group
        means = [sum(pool) / len(pool) for pool in pools]
        if means == sorted(means):
            squares = [(right - mean) ** 2 for pool, mean in zip(pools, means, strict=True) for right in pool]
            best = min(best, sum(squares))
    return best


def test_no_monotone_map_fits_better() -> None:
    rng = random.Random(1)
    for _ in range(200):
        confidences = [rng.randrange(1, 9) / 10 for _ in range(rng.randrange(1, 14))]
        correct = [rng.random() < one for one in confidences]
        pools = pool_violators(confidences, correct)
        shares = [good / count for count, good, _ in pools for _ in range(count)]
        assert shares == sorted(shares)
        pairs = sorted(zip(confidences, correct, strict=True))
        squares = sum((right - share) ** 2 for (_, right), share in zip(pairs, shares, strict=True))
        assert squares == pytest.approx(least_squares(confidences, correct))
        places = [total / count for count, _, total in pools for _ in range(count)]
        assert places == sorted(places) and sum(places) == pytest.approx(sum(confidences))
        found = fit(confidences, correct)
        assert found.problems() == [] and len(found.correct) == len(pools)
        for place, share in zip(places, shares, strict=True):
            wanted = min(max(share, 1 / (len(pairs) + 2)), 1 - 1 / (len(pairs) + 2))
            assert found.apply(place) == pytest.approx(wanted)


def test_between_and_outside_of_what_was_seen() -> None:
    found = Calibration(confidences=(0.2, 0.6), correct=(0.1, 0.5))
    assert [found.apply(one) for one in (0.0, 0.2, 0.3, 0.6, 1.0)] == pytest.approx([0.1, 0.1, 0.2, 0.5, 0.5])
    with pytest.raises(ValueError, match="no words"):
        fit([], [])


def test_nce_by_hand() -> None:
    assert normalized_cross_entropy([0.75] * 4, [True, True, True, False]) == pytest.approx(0.0)
    assert normalized_cross_entropy([1.0, 0.0], [True, False]) == pytest.approx(1.0, abs=1e-3)
    wanted = 1 + (math.log2(0.9) + math.log2(0.8)) / 2
    assert normalized_cross_entropy([0.9, 0.2], [True, False]) == pytest.approx(wanted)
    assert normalized_cross_entropy([0.9], [True]) is None
    assert normalized_cross_entropy([], []) is None
