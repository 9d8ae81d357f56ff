"""Confidences that mean what they say: of the words with confidence 0.8, 80 % are right.

The map is the best non-decreasing one in the least squares: sorted by confidence, neighbours whose share of right words
falls are pooled until none does (Ayer et al. 1955, pool adjacent violators), and between the pools it is linear.
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """confidences: increasing. correct: the share of right words at each of them, non-decreasing, in [0, 1]."""

    confidences: tuple[float, ...]
    correct: tuple[float, ...]

    def problems(self) -> list[str]:
        values = (self.confidences, self.correct)
        fine = len(self.confidences) == len(self.correct) > 0
        fine = fine and all(0 <= one <= 1 for own in values for one in own)
        fine = fine and all(list(own) == sorted(own) for own in values)
        fine = fine and len(set(self.confidences)) == len(self.confidences)
        return [] if fine else ["confidences and correct: expected as many of each, in [0, 1] and increasing"]

    def apply(self, confidence: float) -> float:
        """A confidence, calibrated; outside of what was seen as at its ends."""
        place = bisect.bisect_left(self.confidences, confidence)
        if place in (0, len(self.confidences)):
            return self.correct[0 if place == 0 else -1]
        low, high = self.confidences[place - 1], self.confidences[place]
        before, after = self.correct[place - 1], self.correct[place]
        return before + (after - before) * (confidence - low) / (high - low)


def fit(confidences: Sequence[float], correct: Sequence[bool]) -> Calibration:
    """The map of some words' confidences, which of them were right. ValueError without a word.

    No share is nearer to 0 or 1 than so many words can show: 1 / (words + 2).
    """
    if not confidences:
        raise ValueError("no words")
    pools = pool_violators(confidences, correct)
    least = 1 / (len(confidences) + 2)
    return Calibration(
        confidences=tuple(total / count for count, _, total in pools),
        correct=tuple(min(max(good / count, least), 1 - least) for count, good, _ in pools),
    )


def pool_violators(confidences: Sequence[float], correct: Sequence[bool]) -> list[tuple[int, int, float]]:
    """Words, right words and the sum of confidences of each pool, in order; the share of right words rises."""
    pools: list[tuple[int, int, float]] = []
    pairs = sorted(zip(confidences, correct, strict=True))
    for confidence, group in itertools.groupby(pairs, key=operator.itemgetter(0)):
        rights = [right for _, right in group]
        pool = (len(rights), sum(rights), len(rights) * confidence)
        while pools and pools[-1][1] * pool[0] >= pool[1] * pools[-1][0]:
            count, good, total = pools.pop()
            pool = (pool[0] + count, pool[1] + good, pool[2] + total)
        pools.append(pool)
    return pools


def normalized_cross_entropy(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """NIST's measure: 0 for the share of right words said of each, 1 for certainty that is never wrong.

    Confidences are taken within 1e-4 of 0 and 1. None where all words or none are right.
    """
    right = sum(correct)
    share = right / len(correct) if correct else 0.0
    if not 0 < share < 1:
        return None
    entropy = -(right * math.log2(share) + (len(correct) - right) * math.log2(1 - share))
    inside = [min(max(one, 1e-4), 1 - 1e-4) for one in confidences]
    said = math.fsum(math.log2(one if good else 1 - one) for one, good in zip(inside, correct, strict=True))
    return (entropy + said) / entropy
