"""Word and character errors as counts that add up; rates are ratios of sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter

from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.scoring.alignment import UNIT, Weights, align


@dataclass(frozen=True, kw_only=True)
class ErrorCounts:
    """Errors of any number of utterances; `a + b` are those of both.

    Words are what white space separates. Characters are those of the words joined by single spaces, spaces included.
    """

    ref_words: int = 0
    sub: int = 0
    del_: int = 0
    ins: int = 0
    ref_chars: int = 0
    char_sub: int = 0
    char_del: int = 0
    char_ins: int = 0
    utterances: int = 0
    wrong_utterances: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return total([self, other])

    @property
    def errors(self) -> int:
        """Word errors: substitutions, deletions and insertions."""
        return self.sub + self.del_ + self.ins

    @property
    def char_errors(self) -> int:
        """Character errors: substitutions, deletions and insertions."""
        return self.char_sub + self.char_del + self.char_ins

    @property
    def wer(self) -> float:
        """Word error rate in percent. Without reference words: 0 if there is no error, else infinite."""
        return percent(self.errors, self.ref_words)

    @property
    def cer(self) -> float:
        """Character error rate in percent, defined like `wer`."""
        return percent(self.char_errors, self.ref_chars)

    @property
    def ser(self) -> float:
        """Share of utterances with any word error, in percent."""
        return percent(self.wrong_utterances, self.utterances)

    def to_dict(self) -> dict[str, float | int | None]:
        """The counts and rates as in `wer.json`; an infinite rate is None, because JSON has no infinity."""
        rates = {"wer": self.wer, "cer": self.cer, "ser": self.ser}
        words = {"ref_words": self.ref_words, "errors": self.errors}
        words |= {"sub": self.sub, "del": self.del_, "ins": self.ins}
        chars = {"ref_chars": self.ref_chars, "char_errors": self.char_errors}
        chars |= {"char_sub": self.char_sub, "char_del": self.char_del, "char_ins": self.char_ins}
        whole = {"utterances": self.utterances, "wrong_utterances": self.wrong_utterances}
        return {name: rate if math.isfinite(rate) else None for name, rate in rates.items()} | words | chars | whole


_counts_of = attrgetter(*(field.name for field in fields(ErrorCounts)))


def percent(errors: int, of: int) -> float:
    """100 errors / of; without anything to err on, 0 if there is no error, else infinite."""
    if of == 0:
        return math.inf if errors else 0.0
    return 100.0 * errors / of


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The sum of all counts, in one pass."""
    columns = zip(*map(_counts_of, counts), strict=True)
    return ErrorCounts(**{field.name: sum(column) for field, column in zip(fields(ErrorCounts), columns, strict=False)})


def count_errors(
    refs: Mapping[str, str], hyps: Mapping[str, str], weights: Weights = UNIT, space: str = " "
) -> dict[str, ErrorCounts]:
    """utt_id -> errors, in byte order of utt_id.

    `refs` and `hyps` are joined by utt_id; both may have empty transcripts. Characters are those of the words joined by
    `space`. Raises DataError listing the utterances that only one of the two has.
    """
    utt_ids = join(refs, hyps)
    ref_words, hyp_words = [refs[utt_id].split() for utt_id in utt_ids], [hyps[utt_id].split() for utt_id in utt_ids]
    words = align(ref_words, hyp_words, weights)
    chars = align([space.join(ref) for ref in ref_words], [space.join(hyp) for hyp in hyp_words], weights)
    return {utt_id: _utterance_counts(*steps) for utt_id, *steps in zip(utt_ids, words, chars, strict=True)}


def _utterance_counts(words: str, chars: str) -> ErrorCounts:
    """The counts of one utterance from its two alignments."""
    return ErrorCounts(
        ref_words=len(words) - words.count("I"),
        sub=words.count("S"),
        del_=words.count("D"),
        ins=words.count("I"),
        ref_chars=len(chars) - chars.count("I"),
        char_sub=chars.count("S"),
        char_del=chars.count("D"),
        char_ins=chars.count("I"),
        utterances=1,
        wrong_utterances=int(words.count("C") < len(words)),
    )


def join(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    ref_name: str = "the references",
    hyp_name: str = "the hypotheses",
) -> list[str]:
    """The utterances of both, in byte order. Raises DataError where one has utterances that the other lacks."""
    problems: list[str] = []
    for name, missing in ((hyp_name, refs.keys() - hyps.keys()), (ref_name, hyps.keys() - refs.keys())):
        if missing:
            problems.append(f"{len(missing)} utterance(s) missing from {name}:\n{summarize(sorted(missing))}")
    if problems:
        remedy = "score needs the same utterances in both; decode the whole set, or give the text that belongs to it"
        raise DataError("\n".join([*problems, remedy]))
    return sorted(refs)


def by_speaker(counts: Mapping[str, ErrorCounts], utt2spk: Mapping[str, str]) -> dict[str, ErrorCounts]:
    """speaker -> errors, in byte order. Raises DataError where an utterance has no speaker."""
    missing = [utt_id for utt_id in counts if utt_id not in utt2spk]
    if missing:
        raise DataError(f"{len(missing)} utterance(s) without a speaker:\n{summarize(missing)}\nadd them to utt2spk")
    groups: dict[str, list[ErrorCounts]] = {}
    for utt_id, count in counts.items():
        groups.setdefault(utt2spk[utt_id], []).append(count)
    return {speaker: total(groups[speaker]) for speaker in sorted(groups)}
