"""The listing, tables and trn files that people and sclite read."""

from __future__ import annotations

from w2vbert_asr.scoring.error_counts import count_errors
from w2vbert_asr.scoring.report import align_words, confusions, display_width, from_trn, listing, table, to_trn

REFS = {"u2": "the cat sat on the mat", "u1": "", "u3": "日本 語"}
HYPS = {"u2": "the cats sat the mat today", "u1": "", "u3": "日本 go"}


def test_listing_of_an_utterance() -> None:
    aligned = align_words(REFS, HYPS)
    assert list(aligned) == ["u1", "u2", "u3"]
    assert listing("u2", aligned["u2"]) == (
        "id: (u2)\n"
        "Scores: (#C #S #D #I) 4 1 1 1\n"
        "REF:  the cat  sat on the mat *****\n"
        "HYP:  the cats sat ** the mat today\n"
        "Eval:     S        D          I"
    )
    assert listing("u1", aligned["u1"]) == "id: (u1)\nScores: (#C #S #D #I) 0 0 0 0\nREF:\nHYP:\nEval:"
    assert listing("u3", aligned["u3"]).splitlines()[2:] == ["REF:  日本 語", "HYP:  日本 go", "Eval:      S"]


def test_width_counts_columns() -> None:
    assert [display_width(text) for text in ("abc", "é", "e\u0301", "日本", "")] == [3, 1, 1, 4, 0]


def test_confusions() -> None:
    counted = confusions(align_words(REFS, HYPS).values())
    assert counted == {("cat", "cats"): 1, ("on", None): 1, (None, "today"): 1, ("語", "go"): 1}


def test_table_lines_up() -> None:
    lines = table(count_errors(REFS, HYPS), "utterance").splitlines()
    assert lines[0].split() == ["utterance", "utts", "words", "WER", "CER", "sub", "del", "ins"]
    assert lines[2].split()[:4] == ["u2", "1", "6", "50.00"]
    assert len({len(line) for line in lines}) == 1


def test_trn_round_trip() -> None:
    text = to_trn({"s-b": " x  (y) z", "s-a": ""})
    assert text == "(s-a)\nx (y) z (s-b)\n"
    assert from_trn(text) == {"s-a": "", "s-b": "x (y) z"}
