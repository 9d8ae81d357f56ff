from __future__ import annotations

import math

import pytest

from w2vbert_asr.confidence import word_confidence, word_posteriors


def test_posteriors_by_hand() -> None:
    best, scores = "the cat sat".split(), [math.log(0.2), math.log(0.1), math.log(0.05), math.log(0.05)]
    others = ["a cat sat".split(), "the cat".split(), "so the cat sat down".split()]
    assert word_posteriors([best, *others], scores) == pytest.approx([0.3 / 0.4, 1.0, 0.35 / 0.4])
    lower = [score - 2000.0 for score in scores]  # long recordings
    assert word_posteriors([best, *others], lower) == pytest.approx([0.3 / 0.4, 1.0, 0.35 / 0.4])
    assert word_posteriors([best], [-3.0]) == [1.0, 1.0, 1.0]
    assert word_posteriors([[], ["a"]], [-1.0, -1.0]) == []
    assert word_posteriors([["a"], []], [-1.0, -1.0]) == pytest.approx([0.5])


def test_a_word_is_as_sure_as_its_parts() -> None:
    assert word_confidence([0.5, 0.5], 1.0) == pytest.approx(0.5)
    assert word_confidence([0.9], 0.4) == pytest.approx(0.6)
    assert word_confidence([1.0, 1.0], 1.0) == 1.0
