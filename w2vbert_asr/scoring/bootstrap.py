"""Bootstrap intervals of error rates over speakers, and the paired bootstrap of two systems.

The errors of a speaker go together, so whole speakers are drawn, with replacement (M. Bisani and H. Ney, "Bootstrap
estimates for confidence intervals in ASR performance evaluation", ICASSP 2004). The rate of a draw is a ratio of sums;
the interval lies between percentiles of these rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MAX_CELLS = 1 << 22
_MAX_DRAWN = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval in percent, from `resamples` draws of `units` speakers (or utterances)."""

    low: float
    high: float
    confidence: float
    units: int
    resamples: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """System 2 against system 1 on the same references: WER of 2 minus WER of 1, in percentage points.

    `better_share` is the share of the draws in which system 2 has the lower rate (ties count half).
    """

    difference: float
    interval: Interval
    better_share: float


def bootstrap(
    errors: Sequence[int], ref_words: Sequence[int], seed: int, resamples: int = 10_000, confidence: float = 0.95
) -> Interval | None:
    """Interval of 100 sum(errors) / sum(ref_words), one entry a speaker.

    None where there are fewer than 2 speakers with words, because drawing then says nothing. Of many thousand units
    fewer resamples are drawn (never fewer than 1,000).
    """
    drawn = _draw_sums(np.array([errors, ref_words]), seed, resamples)
    if drawn is None:
        return None
    return _interval(100 * drawn[:, 0] / drawn[:, 1], len(errors), confidence)


def paired_bootstrap(
    errors: Sequence[int],
    errors2: Sequence[int],
    ref_words: Sequence[int],
    seed: int,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Comparison | None:
    """Compare two systems, entries a speaker in the same order; both are judged on the same draws. None as above."""
    drawn = _draw_sums(np.array([errors, errors2, ref_words]), seed, resamples)
    if drawn is None:
        return None
    difference = 100 * (drawn[:, 1] - drawn[:, 0]) / drawn[:, 2]
    return Comparison(
        difference=100 * (sum(errors2) - sum(errors)) / sum(ref_words),
        interval=_interval(difference, len(errors), confidence),
        better_share=float(np.mean((difference < 0) + 0.5 * (difference == 0))),
    )


def _interval(rates: npt.NDArray[np.float64], units: int, confidence: float) -> Interval:
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(low=float(low), high=float(high), confidence=confidence, units=units, resamples=len(rates))


def _draw_sums(counts: npt.NDArray[np.int64], seed: int, resamples: int) -> npt.NDArray[np.int64] | None:
    """Sums (resamples, rows) of columns of `counts` (rows, units) drawn with replacement; the last row is ref_words.

    Draws without any reference word have no rate and are left out.
    """
    units = counts.shape[1]
    if np.count_nonzero(counts[-1]) < 2:
        return None
    rng = np.random.default_rng(seed)
    resamples = min(resamples, max(1000, _MAX_DRAWN // units))
    rows = max(1, _MAX_CELLS // units)
    drawn = [
        counts[:, rng.integers(0, units, (min(rows, resamples - start), units))].sum(axis=2).T
        for start in range(0, resamples, rows)
    ]
    sums = np.concatenate(drawn)
    return sums[sums[:, -1] > 0]
