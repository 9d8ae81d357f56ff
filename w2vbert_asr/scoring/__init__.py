"""Word and character error rates: alignment, counts that add up, intervals, listings. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from w2vbert_asr.scoring.error_counts import ErrorCounts, count_errors, total

__all__ = ["ErrorCounts", "score"]


def score(refs: Mapping[str, str], hyps: Mapping[str, str]) -> ErrorCounts:
    """Errors of `hyps` against `refs`, both utt_id -> transcript, with unit costs.

    Either transcript may be empty. Raises DataError listing the utterances that only one of the two has.
    """
    return total(count_errors(refs, hyps).values())
