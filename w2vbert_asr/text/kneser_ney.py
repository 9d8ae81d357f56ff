"""N-gram models from text: interpolated modified Kneser-Ney smoothing.

p(w | h) = (a(h w) - D(a(h w))) / sum_x a(h x) + gamma(h) p(w | h without its first word), and the last distribution is
the uniform one. a is the number of times that an n-gram occurs if it has the highest order or begins with `<s>`, and
otherwise the number of different words before it. Each order has its own discounts, D(1), D(2) and D(3) for 3 and more,
from the numbers t_k of n-grams with a = k: Y = t_1 / (t_1 + 2 t_2), D(k) = k - (k + 1) Y t_(k+1) / t_k. gamma(h) is
what the discounts of its n-grams add up to, over sum_x a(h x).

Source: Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", TR-10-98, Harvard.
Dimension letters: M words of the text, n n-grams of a level.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from w2vbert_asr.errors import DataError
from w2vbert_asr.text.arpa import LOG10_OF_ZERO
from w2vbert_asr.text.ngram import Array, Floats, Level, NGrams
from w2vbert_asr.text.tokenizer import BLANK_ID, UNK_ID

FALLBACK = (0.5, 1.0, 1.5)  # discounts where the text is too small, or too regular, to tell them

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one order, each field (n,): keys as in Level, how often they occur, the places of what they end
    with in the order before, and whether they begin with `<s>`."""

    keys: Array
    count: Array
    suffix: Array
    is_start: NDArray[np.bool_]


def train(sentences: Iterable[Sequence[int]], vocab_size: int, order: int) -> NGrams:
    """The model of sentences of token ids; empty ones are left out. All tokens but blank are words of it.

    The text is held in memory, about 40 bytes a token and `order`. DataError without any sentence.
    """
    counts = _count(sentences, vocab_size, order)
    num_words, start = vocab_size + 2, vocab_size + 1
    predicted = counts[0].keys != start
    lower = np.full(len(predicted), 1.0 / predicted.sum())  # the uniform distribution, then that of the order before
    probs: list[Floats] = []
    backoffs: list[Floats] = []  # of the order before
    for number, own in enumerate(counts, 1):
        adjusted = own.count
        if number < order:
            before = np.bincount(counts[number].suffix, minlength=len(own.keys))
            adjusted = np.where(own.is_start, own.count, before)
        if number == 1:
            adjusted = np.where(predicted, adjusted, 0)
        discount = discounts(adjusted, number)[np.minimum(adjusted, 3)]
        parent = own.keys // num_words
        num_parents = len(counts[number - 2].keys) if number > 1 else 1
        total = np.bincount(parent, adjusted, num_parents)
        gamma = np.bincount(parent, discount, num_parents) / np.maximum(total, 1)
        lower_prob = lower if number == 1 else lower[own.suffix]
        lower = (adjusted - discount) / total[parent] + gamma[parent] * lower_prob
        probs.append(lower)
        backoffs.append(np.where(total > 0, gamma, 1.0))
    backoffs = [*backoffs[1:], np.ones(len(probs[-1]))]
    levels = [
        Level(own.keys, np.log(prob), np.log(backoff))
        for own, prob, backoff in zip(counts, probs, backoffs, strict=True)
    ]
    levels[0].log_prob[~predicted] = LOG10_OF_ZERO * np.log(10.0)
    word_of = np.arange(vocab_size)
    word_of[BLANK_ID] = UNK_ID
    return NGrams(vocab_size=vocab_size, levels=tuple(levels), word_of=word_of)


def discounts(adjusted: Array, order: int) -> Floats:
    """(4,): what is taken from an n-gram with an adjusted count of 0, 1, 2, and 3 or more; FALLBACK where the counts
    give none that are above 0 and take no more than there is."""
    t1, t2, t3, t4 = np.bincount(np.minimum(adjusted, 5), minlength=6)[1:5].tolist()
    if t1 and t2 and t3:
        y = t1 / (t1 + 2 * t2)
        found = [1 - 2 * y * t2 / t1, 2 - 3 * y * t3 / t2, 3 - 4 * y * t4 / t3]
        if all(0 < one <= k for k, one in enumerate(found, 1)):
            return np.array([0.0, *found])
    _log.info("ngram: order %d: discounts %s; the numbers of n-grams %s give none", order, FALLBACK, (t1, t2, t3, t4))
    return np.array([0.0, *FALLBACK])


def _count(sentences: Iterable[Sequence[int]], vocab_size: int, order: int) -> list[_Counts]:
    num_words, end, start = vocab_size + 2, vocab_size, vocab_size + 1
    text = [np.array([start, *own, end], dtype=np.int64) for own in sentences if len(own)]
    if not text:
        raise DataError("ngram: the texts are empty; give --text files with at least one word")
    words = np.concatenate(text)
    left = np.concatenate([np.arange(len(own), 0, -1) for own in text])  # words to the end of the sentence
    del text
    own_keys = np.flatnonzero(np.arange(num_words) != BLANK_ID)
    node = np.searchsorted(own_keys, words)  # (M,) the n-gram that begins here, its place in its level
    count = np.bincount(node, minlength=len(own_keys))
    levels = [_Counts(own_keys, count, np.zeros_like(own_keys), own_keys == start)]
    for number in range(2, order + 1):
        at = np.flatnonzero(left >= number)
        keys, inverse, count = np.unique(
            node[at] * num_words + words[at + number - 1], return_inverse=True, return_counts=True
        )
        suffix, is_start = np.empty_like(keys), np.empty(len(keys), dtype=bool)
        suffix[inverse] = node[at + 1]
        is_start[inverse] = words[at] == start
        levels.append(_Counts(keys, count, suffix, is_start))
        node = np.full_like(words, -1)
        node[at] = inverse
    return levels
