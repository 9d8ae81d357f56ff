"""Counts that add up, rates, joining by utterance, and totals against jiwer."""

from __future__ import annotations

import math
import random

import jiwer
import pytest

from w2vbert_asr.errors import DataError
from w2vbert_asr.scoring import ErrorCounts, score
from w2vbert_asr.scoring.error_counts import by_speaker, count_errors, total

REFS = {"b": "the cat sat", "a": "on the mat", "c": ""}
HYPS = {"a": "on mat", "c": "oh", "b": "a cat sat down"}


def test_a_small_case_by_hand() -> None:
    counts = score(REFS, HYPS)
    assert (counts.ref_words, counts.sub, counts.del_, counts.ins) == (6, 1, 1, 2)
    assert (counts.errors, counts.utterances, counts.wrong_utterances) == (4, 3, 3)
    assert counts.wer == pytest.approx(100 * 4 / 6)
    # "the" -> "a" is 1 sub + 2 del; " down" 5 ins; "the " 4 del; "oh" 2 ins; 11 + 10 characters
    assert (counts.ref_chars, counts.char_sub, counts.char_del, counts.char_ins) == (21, 1, 6, 7)


@pytest.mark.parametrize(
    ("ref", "hyp", "wer", "errors"),
    [("", "", 0.0, 0), ("", "a b", math.inf, 2), ("a b", "", 100.0, 2), ("  a\tb ", "a  b", 0.0, 0)],
)
def test_i03_empty_transcripts(ref: str, hyp: str, wer: float, errors: int) -> None:
    counts = score({"u": ref}, {"u": hyp})
    assert (counts.wer, counts.errors) == (wer, errors)
    assert (counts.cer == 0) == (errors == 0)
    assert counts.to_dict()["wer"] == (None if math.isinf(wer) else wer)


def test_nothing_scored_is_zero() -> None:
    assert score({}, {}) == ErrorCounts() == total([])
    assert ErrorCounts().wer == ErrorCounts().cer == ErrorCounts().ser == 0


def test_counts_add_up() -> None:
    each = count_errors(REFS, HYPS)
    assert list(each) == ["a", "b", "c"]
    assert each["a"] + each["b"] + each["c"] == score(REFS, HYPS)
    speakers = by_speaker(each, {"a": "y", "b": "x", "c": "y"})
    assert list(speakers) == ["x", "y"]
    assert speakers == {"x": each["b"], "y": each["a"] + each["c"]}
    assert sum(speakers.values(), ErrorCounts()) == score(REFS, HYPS)


def test_keys_of_the_json() -> None:
    keys = score(REFS, HYPS).to_dict()
    assert keys.keys() >= {"wer", "cer", "ref_words", "errors", "sub", "del", "ins", "utterances"}
    assert (keys["sub"], keys["del"], keys["ins"]) == (1, 1, 2)


def test_missing_and_extra_utterances_are_listed() -> None:
    with pytest.raises(DataError) as caught:
        score({"a": "x", "b": "x", "c": "x"}, {"a": "x", "d": "x"})
    message = str(caught.value)
    assert "2 utterance(s) missing from the hypotheses:\n  b\n  c" in message
    assert "1 utterance(s) missing from the references:\n  d" in message


def test_a_speaker_is_required_for_each_utterance() -> None:
    with pytest.raises(DataError, match=r"1 utterance.*without a speaker:\n  b"):
        by_speaker(count_errors(REFS, HYPS), {"a": "x", "c": "x"})


def test_i03_totals_equal_jiwer() -> None:
    rng = random.Random(5)
    words = ["one", "two", "three", "zwölf", "o", "seventeen", "tooth"]
    refs = {f"u{i}": " ".join(rng.choices(words, k=rng.randint(1, 9))) for i in range(5000)}
    hyps = {utt_id: " ".join(rng.choices(words, k=rng.randint(0, 9))) for utt_id in refs}
    ours = score(refs, hyps)
    theirs = jiwer.process_words(list(refs.values()), list(hyps.values()))
    assert (ours.sub, ours.del_, ours.ins) == (theirs.substitutions, theirs.deletions, theirs.insertions)
    assert ours.wer == pytest.approx(100 * theirs.wer)
    chars = jiwer.process_characters(list(refs.values()), list(hyps.values()))
    assert (ours.char_sub, ours.char_del, ours.char_ins) == (chars.substitutions, chars.deletions, chars.insertions)
    assert ours.cer == pytest.approx(100 * chars.cer)
