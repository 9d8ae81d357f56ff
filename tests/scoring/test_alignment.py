"""Alignments against a slow table, a search over all of them, jiwer and kaldialign."""

from __future__ import annotations

import random
from functools import cache

import jiwer
import kaldialign  # type: ignore[import-untyped]
import pytest

from w2vbert_asr.scoring import alignment
from w2vbert_asr.scoring.alignment import SCLITE, UNIT, Weights, align, pair_up

JIWER_LETTERS = {"equal": "C", "substitute": "S", "delete": "D", "insert": "I"}


def random_pairs(number: int, longest: int, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """References and hypotheses over few words, so that ties abound; half of them are a reference with random edits."""
    rng = random.Random(seed)
    refs, hyps = [], []
    for index in range(number):
        words = [f"w{i}" for i in range(rng.choice((2, 3, 5, 9)))]
        ref = rng.choices(words, k=rng.randint(0, longest))
        hyp = rng.choices(words, k=rng.randint(0, longest))
        if index % 2:
            hyp = [word for old in ref for word in rng.choice(([old], [old], [old], [], [old, words[0]], [words[1]]))]
        refs.append(ref)
        hyps.append(hyp)
    return refs, hyps


def counts(steps: str) -> tuple[int, ...]:
    return tuple(steps.count(letter) for letter in "CSDI")


def cost(steps: str, weights: Weights) -> int:
    return sum(steps.count(letter) * weight for letter, weight in zip("SDI", weights, strict=True))


def slow_align(ref: list[str], hyp: list[str], weights: Weights, order: str) -> str:
    """A plain table and a walk back that takes the first move of `order` (M diagonal) that is among the cheapest."""
    table = [[j * weights.ins for j in range(len(hyp) + 1)]]
    for i, word in enumerate(ref, 1):
        table.append([i * weights.del_])
        for j, other in enumerate(hyp, 1):
            moves = [
                table[i - 1][j - 1] + (word != other) * weights.sub,
                table[i - 1][j] + weights.del_,
                table[i][j - 1] + weights.ins,
            ]
            table[i].append(min(moves))
    i, j, steps = len(ref), len(hyp), ""
    while i or j:
        here = table[i][j]
        for move in order:
            equal = bool(i and j and ref[i - 1] == hyp[j - 1])
            if move == "M" and i and j and here == table[i - 1][j - 1] + (not equal) * weights.sub:
                i, j, steps = i - 1, j - 1, ("C" if equal else "S") + steps
                break
            if move == "D" and i and here == table[i - 1][j] + weights.del_:
                i, steps = i - 1, "D" + steps
                break
            if move == "I" and j and here == table[i][j - 1] + weights.ins:
                j, steps = j - 1, "I" + steps
                break
    return steps


@pytest.mark.parametrize("weights", [UNIT, SCLITE, Weights(2, 1, 5)])
def test_cost_is_the_least_of_all_alignments(weights: Weights) -> None:
    refs, hyps = random_pairs(300, 6, seed=1)
    for ref, hyp, steps in zip(refs, hyps, align(refs, hyps, weights), strict=True):

        @cache
        def least(i: int, j: int, ref: tuple[str, ...] = tuple(ref), hyp: tuple[str, ...] = tuple(hyp)) -> int:
            if i == len(ref) or j == len(hyp):
                return (len(ref) - i) * weights.del_ + (len(hyp) - j) * weights.ins
            both = least(i + 1, j + 1) + (ref[i] != hyp[j]) * weights.sub
            return min(both, least(i + 1, j) + weights.del_, least(i, j + 1) + weights.ins)

        assert cost(steps, weights) == least(0, 0)
        paired = pair_up(ref, hyp, steps)
        assert [word for word, _ in paired if word is not None] == ref
        assert [word for _, word in paired if word is not None] == hyp
        for step, (word, other) in zip(steps, paired, strict=True):
            assert step == ("I" if word is None else "D" if other is None else "C" if word == other else "S")


def test_ties_are_broken_as_in_the_slow_table() -> None:
    refs, hyps = random_pairs(6000, 9, seed=2)
    found = list(map(counts, align(refs, hyps, SCLITE)))
    slow = {
        order: [counts(slow_align(ref, hyp, SCLITE, order)) for ref, hyp in zip(refs, hyps, strict=True)]
        for order in ("MID", "MDI", "DMI", "IMD")
    }
    assert found == slow.pop("MID")
    assert all(found != wrong for wrong in slow.values())  # the pairs tell the orders apart


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    refs, hyps = random_pairs(200, 9, seed=3)
    together = align(refs, hyps, SCLITE)
    monkeypatch.setattr(alignment, "_MAX_CELLS", 100)
    assert align(refs, hyps, SCLITE) == together
    assert [align([ref], [hyp], SCLITE)[0] for ref, hyp in zip(refs, hyps, strict=True)] == together


def test_long_pairs_do_not_overflow() -> None:
    assert align([["a"] * 3], [["b"] * 9000], SCLITE) == ["I" * 8997 + "SSS"]


def test_characters_of_a_string_are_tokens() -> None:
    assert align(["kitten", "", "a"], ["sitting", "ab", ""]) == ["SCCCSCI", "II", "D"]
    assert align(["kitten", "", "a", ""], ["sitting", "ab", "", ""], SCLITE) == ["SCCCSCI", "II", "D", ""]


def test_i03_many_pairs_equal_jiwer_and_kaldialign() -> None:
    refs, hyps = random_pairs(100_000, 5, seed=4)
    found = align(refs, hyps)
    theirs = jiwer.process_words([" ".join(ref) for ref in refs], [" ".join(hyp) for hyp in hyps])
    for steps, chunks in zip(found, theirs.alignments, strict=True):
        edits = "".join(
            JIWER_LETTERS[chunk.type]
            * max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
        )
        assert steps == edits
    errors = [len(steps) - steps.count("C") for steps in found]
    assert errors == [kaldialign.edit_distance(ref, hyp)["total"] for ref, hyp in zip(refs, hyps, strict=True)]
