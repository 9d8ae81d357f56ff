"""Bootstrap intervals against the exact distribution, which is small enough to enumerate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from w2vbert_asr.scoring import bootstrap as module
from w2vbert_asr.scoring.bootstrap import bootstrap, paired_bootstrap

ERRORS, ERRORS2, WORDS = [3, 10, 0, 7, 2], [2, 11, 0, 4, 2], [20, 31, 5, 28, 60]


def all_draws() -> np.ndarray:
    return np.array(list(itertools.product(range(5), repeat=5)))


def test_interval_equals_the_exact_quantiles() -> None:
    draws = all_draws()
    rates = 100 * np.array(ERRORS)[draws].sum(axis=1) / np.array(WORDS)[draws].sum(axis=1)
    interval = bootstrap(ERRORS, WORDS, seed=1, resamples=100_000)
    assert interval is not None
    assert (interval.units, interval.resamples, interval.confidence) == (5, 100_000, 0.95)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(rates, [0.025, 0.975]), abs=0.3)
    narrow = bootstrap(ERRORS, WORDS, seed=1, resamples=100_000, confidence=0.5)
    assert narrow is not None
    assert [narrow.low, narrow.high] == pytest.approx(np.quantile(rates, [0.25, 0.75]), abs=0.3)


def test_paired_comparison_equals_the_exact_distribution() -> None:
    draws = all_draws()
    difference = np.array(ERRORS2)[draws].sum(axis=1) - np.array(ERRORS)[draws].sum(axis=1)
    points = 100 * difference / np.array(WORDS)[draws].sum(axis=1)
    found = paired_bootstrap(ERRORS, ERRORS2, WORDS, seed=1, resamples=100_000)
    assert found is not None
    assert found.difference == pytest.approx(100 * (19 - 22) / 144)
    assert [found.interval.low, found.interval.high] == pytest.approx(np.quantile(points, [0.025, 0.975]), abs=0.2)
    assert found.better_share == pytest.approx(np.mean((points < 0) + 0.5 * (points == 0)), abs=0.01)


def test_paired_is_narrower_than_two_alone() -> None:
    better = [error - 1 if error else 0 for error in ERRORS]
    found, first = paired_bootstrap(ERRORS, better, WORDS, seed=0), bootstrap(ERRORS, WORDS, seed=0)
    assert found is not None
    assert first is not None
    assert found.interval.high - found.interval.low < 0.5 * (first.high - first.low)
    same = paired_bootstrap(ERRORS, ERRORS, WORDS, seed=0)
    assert same is not None
    assert (same.difference, same.interval.low, same.interval.high, same.better_share) == (0, 0, 0, 0.5)


def test_seed_decides_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bootstrap(ERRORS, WORDS, seed=3)
    assert bootstrap(ERRORS, WORDS, seed=3) == first
    assert bootstrap(list(range(5)), WORDS, seed=3) != first
    monkeypatch.setattr(module, "_MAX_CELLS", 35)
    assert bootstrap(ERRORS, WORDS, seed=3) == first


@pytest.mark.parametrize(("errors", "words"), [([], []), ([1], [9]), ([1, 2], [0, 9])])
def test_one_speaker_has_no_interval(errors: list[int], words: list[int]) -> None:
    assert bootstrap(errors, words, seed=0) is None
    assert paired_bootstrap(errors, errors, words, seed=0) is None


def test_draws_without_words_are_left_out() -> None:
    interval = bootstrap([1, 1, 1, 4], [0, 0, 10, 10], seed=0)
    assert interval is not None
    assert interval.resamples < 10_000
    assert np.isfinite([interval.low, interval.high]).all()
