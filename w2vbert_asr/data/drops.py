"""Utterances that a stage leaves out: each with a reason in a report, and too many of them an error."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path

from w2vbert_asr.errors import DataError, summarize

REPORT = "dropped.tsv"
Drop = tuple[str, str, str]  # utt_id, reason, detail
_log = logging.getLogger(__name__)


def judge(data: Path, drops: Sequence[Drop], total: int, max_dropped: float, harmless: Container[str] = ()) -> None:
    """DataError if more than the share `max_dropped` of `total` is lost, but for harmless reasons, or if all is.

    What is put up with goes to the log.
    """
    if not drops:
        return
    reasons = Counter(reason for _, reason, _ in drops)
    table = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    damaged = [drop for drop in drops if drop[1] not in harmless]
    if len(damaged) > max_dropped * total:
        shown = summarize([f"{utt_id}: {detail}" for utt_id, _, detail in damaged])
        raise DataError(
            f"{data}: {len(damaged)} of {total} utterances have unusable audio, {max_dropped:.2%} are put up with "
            f"({table}):\n{shown}\n"
            "  restore the files, leave them out with `w2vbert fix`, or raise --max-dropped"
        )
    if len(drops) == total:
        raise DataError(f"{data}: nothing left, all {total} utterances were dropped ({table})")
    _log.warning("%s: dropped %d of %d utterances (%s), see %s", data, len(drops), total, table, REPORT)


def report(drops: Sequence[Drop]) -> str:
    """The lines of dropped.tsv."""
    rows = [("utt_id", "reason", "detail"), *drops]
    return "".join("\t".join(" ".join(value.split()) for value in row) + "\n" for row in rows)
