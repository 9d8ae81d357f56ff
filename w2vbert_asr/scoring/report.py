"""What people read: the tables, frequent errors, the aligned listing, and NIST's trn files."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from w2vbert_asr.scoring.alignment import align, pair_up
from w2vbert_asr.scoring.bootstrap import Interval
from w2vbert_asr.scoring.error_counts import ErrorCounts

_HEADER = ("utts", "words", "WER", "CER", "sub", "del", "ins")


@dataclass(frozen=True)
class AlignedWords:
    """The unit-cost alignment of an utterance: a letter of "CSDI" and a pair (reference, hypothesis) for each step."""

    steps: str
    pairs: list[tuple[str | None, str | None]]

    @property
    def errors(self) -> int:
        return len(self.steps) - self.steps.count("C")


def align_words(refs: Mapping[str, str], hyps: Mapping[str, str]) -> dict[str, AlignedWords]:
    """utt_id -> alignment, in byte order; `refs` and `hyps` have the same utterances."""
    utt_ids = sorted(refs)
    words = [(refs[utt_id].split(), hyps[utt_id].split()) for utt_id in utt_ids]
    aligned = align([ref for ref, _ in words], [hyp for _, hyp in words])
    return {
        utt_id: AlignedWords(steps, pair_up(ref, hyp, steps))
        for utt_id, (ref, hyp), steps in zip(utt_ids, words, aligned, strict=True)
    }


def result_text(
    aligned: Mapping[str, AlignedWords],
    totals: Mapping[str, ErrorCounts],
    speakers: Mapping[str, ErrorCounts],
    interval: Interval | None,
) -> str:
    """The whole of `result.txt`: totals, speakers (if known), frequent errors, then every utterance aligned."""
    parts = [table(totals, "costs S/D/I"), interval_line(interval, "speakers" if speakers else "utterances")]
    if speakers:
        parts.append(table(speakers, "speaker"))
    parts.append("Most frequent errors\n" + frequent_errors(aligned.values()))
    parts += [listing(utt_id, utterance) for utt_id, utterance in aligned.items()]
    return "\n\n".join(parts) + "\n"


def table(rows: Mapping[str, ErrorCounts], name: str) -> str:
    """A line of counts for each entry of `rows`, under a header that begins with `name`."""
    lines = [[name, *_HEADER]]
    for key, count in rows.items():
        counts = [count.utterances, count.ref_words, f"{count.wer:.2f}", f"{count.cer:.2f}"]
        lines.append([key, *map(str, [*counts, count.sub, count.del_, count.ins])])
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(_pad(cell, width, left=i == 0) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def interval_line(interval: Interval | None, units: str) -> str:
    """The interval in words."""
    if interval is None:
        return f"no interval: that takes at least 2 {units} with words"
    share = f"{100 * interval.confidence:g} %"
    return f"WER {interval.low:.2f} to {interval.high:.2f} ({share} interval, bootstrap over {interval.units} {units})"


def frequent_errors(utterances: Iterable[AlignedWords], limit: int = 20) -> str:
    """The most frequent confusions, deletions and insertions, one a line."""
    lines = [
        f"{count:6d}  {'(nothing)' if ref is None else ref} -> {'(nothing)' if hyp is None else hyp}"
        for (ref, hyp), count in confusions(utterances).most_common(limit)
    ]
    return "\n".join(lines) or "     0"


def confusions(utterances: Iterable[AlignedWords]) -> Counter[tuple[str | None, str | None]]:
    """How often each word was taken for another; None as reference is an insertion, as hypothesis a deletion."""
    return Counter(pair for utterance in utterances for pair in utterance.pairs if pair[0] != pair[1])


def listing(utt_id: str, utterance: AlignedWords) -> str:
    """Reference over hypothesis, word under word, stars where one has no word, the errors marked below."""
    counts = " ".join(str(utterance.steps.count(step)) for step in "CSDI")
    lines: dict[str, list[str]] = {"REF:": [], "HYP:": [], "Eval:": []}
    for step, (ref, hyp) in zip(utterance.steps, utterance.pairs, strict=True):
        width = max(display_width(ref or ""), display_width(hyp or ""))
        lines["REF:"].append(_pad("*" * width if ref is None else ref, width))
        lines["HYP:"].append(_pad("*" * width if hyp is None else hyp, width))
        lines["Eval:"].append(_pad("" if step == "C" else step, width))
    head = [f"id: ({utt_id})", f"Scores: (#C #S #D #I) {counts}"]
    return "\n".join(head + [f"{name:6}{' '.join(words)}".rstrip() for name, words in lines.items()])


def display_width(text: str) -> int:
    """Columns in a fixed-width font: 2 for wide East Asian characters, 0 for combining marks."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def _pad(text: str, width: int, left: bool = True) -> str:
    blanks = " " * (width - display_width(text))
    return text + blanks if left else blanks + text


def to_trn(transcripts: Mapping[str, str]) -> str:
    """NIST's transcripts, `words (utt_id)` a line, in byte order of utt_id.

    sclite gives a meaning of its own to some words of these files (`{ a / b }`, `@`); scores here take them as words.
    """
    return "".join(" ".join([*transcripts[utt_id].split(), f"({utt_id})"]) + "\n" for utt_id in sorted(transcripts))


def from_trn(text: str) -> dict[str, str]:
    """The inverse of `to_trn`: utt_id -> words."""
    split = (line.rpartition(" ") for line in text.split("\n") if line)
    return {last[1:-1]: words for words, _, last in split}
