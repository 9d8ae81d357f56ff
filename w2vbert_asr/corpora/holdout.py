"""Sets to develop and test on, split off from utterances of one's own. No torch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence

from w2vbert_asr.corpora.raw import RawUtterance
from w2vbert_asr.errors import DataError


def hold_out(
    utterances: Sequence[RawUtterance], shares: Mapping[str, float], rest: str
) -> dict[str, list[RawUtterance]]:
    """The sets of `shares`, at most that share of the utterances each but never empty, and the others as `rest`.

    A speaker belongs to one set. With too few speakers for that, a sentence does. Which ones follows from the digests
    of their names, so the same data are always split alike. DataError if there is not enough for so many sets.
    """
    groups = _group([raw.speaker for raw in utterances], utterances)
    if shares and len(groups) <= len(shares):
        print(f"{len(groups)} speaker(s) for {len(shares) + 1} sets: split by sentence", file=sys.stderr)
        groups = _group([raw.text or raw.utt_id for raw in utterances], utterances)
    if len(groups) <= len(shares):
        raise DataError(f"nothing left: {len(groups)} different utterance(s) are not enough for {len(shares) + 1} sets")
    left = sorted(groups, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
    chosen: dict[str, list[str]] = {rest: left}
    for name, share in shares.items():
        taken = dict.fromkeys(_take(left, groups, share * len(utterances)))
        chosen[name] = list(taken)
        left[:] = [key for key in left if key not in taken]
    return {name: [raw for key in sorted(keys) for raw in groups[key]] for name, keys in chosen.items()}


def _group(keys: Sequence[str], utterances: Sequence[RawUtterance]) -> dict[str, list[RawUtterance]]:
    groups: dict[str, list[RawUtterance]] = {}
    for key, raw in zip(keys, utterances, strict=True):
        groups.setdefault(key, []).append(raw)
    return groups


def _take(keys: Sequence[str], groups: Mapping[str, Sequence[RawUtterance]], most: float) -> list[str]:
    """The first groups that together have at most `most` utterances; the smallest one if none is small enough."""
    taken, count = list[str](), 0
    for key in keys:
        if count + len(groups[key]) <= most:
            taken.append(key)
            count += len(groups[key])
    return taken or [min(keys, key=lambda key: len(groups[key]))]
