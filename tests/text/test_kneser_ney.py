"""The trainer against the formulas, a word and a context at a time."""

from __future__ import annotations

import io
import itertools
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from w2vbert_asr.errors import DataError
from w2vbert_asr.text import arpa
from w2vbert_asr.text.kneser_ney import FALLBACK, discounts, train
from w2vbert_asr.text.ngram import NGramModel

VOCAB = 7  # 0 is blank, the others are words
END, START = VOCAB, VOCAB + 1
Gram = tuple[int, ...]


def sample(seed: int, num_sentences: int) -> list[list[int]]:
    """Sentences of a chain in which some words are rare and some follow others often."""
    rng = random.Random(seed)
    weights = {word: [rng.random() ** 4 for _ in range(1, VOCAB - 1)] for word in range(1, VOCAB)}
    sentences = []
    for _ in range(num_sentences):
        word, sentence = 1, []
        for _ in range(rng.randrange(0, 9)):
            (word,) = rng.choices(range(1, VOCAB - 1), weights[word])
            sentence.append(word)
        sentences.append(sentence)
    return sentences  # word 6 never occurs


class Slow:
    """Interpolated modified Kneser-Ney from counters."""

    def __init__(self, sentences: list[list[int]], order: int) -> None:
        self.order = order
        padded = [(START, *sentence, END) for sentence in sentences if sentence]
        counts = [
            Counter(own[i : i + n] for own in padded for i in range(len(own) - n + 1)) for n in range(1, order + 1)
        ]
        self.adjusted: list[dict[Gram, int]] = []
        for n in range(1, order + 1):
            if n == order:
                own = dict(counts[n - 1])
            else:
                own = {
                    gram: count if gram[0] == START else len({longer[0] for longer in counts[n] if longer[1:] == gram})
                    for gram, count in counts[n - 1].items()
                }
            if n == 1:
                own.pop((START,))
            self.adjusted.append(own)
        self.discounts = [self.discounts_of(own) for own in self.adjusted]

    @staticmethod
    def discounts_of(own: dict[Gram, int]) -> list[float]:
        t = [0, *(sum(count == k for count in own.values()) for k in (1, 2, 3, 4))]
        if 0 in t[1:4]:
            return [0.0, *FALLBACK]
        y = t[1] / (t[1] + 2 * t[2])
        found = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
        return [0.0, *(found if all(0 < d <= k for k, d in enumerate(found, 1)) else FALLBACK)]

    def prob(self, context: Gram, word: int) -> float:
        context = context[max(0, len(context) - self.order + 1) :]
        own = self.adjusted[len(context)]
        discount = self.discounts[len(context)]
        followers = {gram: count for gram, count in own.items() if gram[:-1] == context}
        total = sum(followers.values())
        lower = 1 / VOCAB if not context else self.prob(context[1:], word)
        if not total:
            return lower
        count = own.get((*context, word), 0)
        gamma = sum(discount[min(one, 3)] for one in followers.values()) / total
        return (count - discount[min(count, 3)]) / total + gamma * lower


def contexts(order: int) -> list[Gram]:
    """All that can stand before a word, listed or not."""
    found: list[Gram] = []
    for length in range(order):
        for words in itertools.product(range(1, VOCAB), repeat=length):
            found += [(START, *words), words]
    return found


def state(model: NGramModel, context: Gram) -> torch.Tensor:
    states = torch.zeros(1, dtype=torch.long)
    for word in context:
        states = model.start() if word == START else model.advance(states, torch.tensor([word]))
    return states


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("seed", "num_sentences"), [(0, 60), (1, 8), (2, 300)])
def test_the_model_is_that_of_the_formulas_and_sums_to_one(order: int, seed: int, num_sentences: int) -> None:
    sentences = sample(seed, num_sentences)
    ngrams = train(sentences, VOCAB, order)
    model, slow = NGramModel(ngrams), Slow(sentences, order)
    words = [*range(1, VOCAB), END]
    for context in contexts(order):
        probs = model.log_probs(state(model, context))[0].double().exp()
        assert probs[words].sum().item() == pytest.approx(1.0, abs=1e-5)
        expected = [slow.prob(context, word) for word in words]
        assert sum(expected) == pytest.approx(1.0, abs=1e-12)
        assert probs[words].tolist() == pytest.approx(expected, rel=2e-5)


def test_both_kinds_of_discounts_were_looked_at() -> None:
    found = Slow(sample(2, 300), 4)
    assert found.discounts[0] == [0.0, *FALLBACK]
    assert found.discounts[3] != [0.0, *FALLBACK]


def test_discounts_of_known_counts() -> None:
    adjusted = np.repeat([1, 2, 3, 4, 5, 9], [40, 15, 8, 5, 3, 2])
    y = 40 / 70
    expected = [0.0, 1 - 2 * y * 15 / 40, 2 - 3 * y * 8 / 15, 3 - 4 * y * 5 / 8]
    assert discounts(adjusted, 2).tolist() == pytest.approx(expected)
    for odd in ([1, 2, 4], [1] * 9 + [2] * 2 + [3] * 9, [2, 2, 3]):  # no 3; below 0; no 1
        assert discounts(np.array(odd), 2).tolist() == [0.0, *FALLBACK]


def test_a_file_has_the_same_model(tmp_path: Path) -> None:
    ngrams = train(sample(0, 60), VOCAB, 3)
    pieces = ["<blank>", "<unk>", *"abcde"]
    text = io.StringIO()
    arpa.write(text, ngrams, pieces)
    (tmp_path / "lm.arpa").write_text(text.getvalue())
    model, again = NGramModel(ngrams), NGramModel(arpa.read(tmp_path / "lm.arpa", pieces))
    for context in contexts(3):
        own, same = model.log_probs(state(model, context)), again.log_probs(state(again, context))
        torch.testing.assert_close(own[:, 1:], same[:, 1:], atol=1e-5, rtol=1e-6)
        assert same[0, 1:].double().exp().sum().item() == pytest.approx(1.0, abs=1e-5)
        assert own[0, 1:].isfinite().all() and math.isfinite(own[0, -1])


def test_no_text() -> None:
    with pytest.raises(DataError, match="empty"):
        train([[], []], VOCAB, 3)
