"""N-gram models with back-off: a table, and the model that a search asks about many word sequences at once.

An n-gram that is listed has its own probability; one that is not has that of the n-gram without its first word, times
the back-off weight of its context, which is 1 where the context is not listed either (Katz 1987).

The n-grams are a tree, numbered level by level, in each level by parent and then by word. So `parent * words + word` is
sorted over the whole tree, one binary search finds any child, and the children of a node stand side by side.

Words are numbered as the tokens are, V of them; then come `</s>` and `<s>`.
Dimension letters: N word sequences, V vocabulary, n n-grams of a level.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from w2vbert_asr.text.tokenizer import BLANK_ID

Array = NDArray[np.int64]
Floats = NDArray[np.float64]

SCORED_WORDS = 1 << 12  # by `perplexity`, at once


@dataclass(frozen=True)
class Level:
    """The n-grams of one order. keys (n,): parent * (V + 2) + word, sorted, all different; parent is the place of the
    context in the level before (0 in the first level). log_prob, backoff (n,): natural logs.
    """

    keys: Array
    log_prob: Floats
    backoff: Floats

    def find(self, parent: Array, word: Array, num_words: int) -> tuple[Array, NDArray[np.bool_]]:
        """Places of n-grams in this level, and which of them are there; a place has no meaning for the others."""
        keys = parent * num_words + word
        place = np.minimum(np.searchsorted(self.keys, keys), max(len(self.keys) - 1, 0))
        return place, self.keys[place] == keys if len(self.keys) else np.zeros(len(keys), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class NGrams:
    """levels: of order 1, 2, ...; the context of every n-gram is listed, and every word of one is a 1-gram.

    word_of (V,): the word that a token counts as: itself, or `<unk>` where it is no 1-gram.
    """

    vocab_size: int
    levels: tuple[Level, ...]
    word_of: Array

    @property
    def num_words(self) -> int:
        return self.vocab_size + 2

    @property
    def end(self) -> int:
        return self.vocab_size

    @property
    def start(self) -> int:
        return self.vocab_size + 1


class NGramModel:
    """log P(word | words before) of many sequences at once. A state is the number of the longest listed n-gram, shorter
    than the order, that the words so far end with; 0 is the empty one."""

    def __init__(self, ngrams: NGrams, device: torch.device | str = "cpu") -> None:
        levels, num_words = ngrams.levels, ngrams.num_words
        self.vocab_size = ngrams.vocab_size
        self.order = len(levels)
        firsts = np.cumsum([1, *(len(level.keys) for level in levels)])  # the number of the first n-gram of each order
        offsets = [0, *firsts[:-2]]
        keys = np.concatenate([level.keys + at * num_words for level, at in zip(levels, offsets, strict=True)])
        num_states = int(firsts[-2])
        bounds = np.searchsorted(keys, np.arange(num_states + 1) * num_words)

        def tensor(values: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device=device, dtype=dtype)

        self.num_words, self.num_states = num_words, num_states
        self.keys = tensor(keys, torch.int64)
        self.log_prob = tensor(np.concatenate([level.log_prob for level in levels]), torch.float32)
        backoff = np.concatenate([[0.0], *(level.backoff for level in levels[:-1])])
        self.backoff = tensor(backoff, torch.float32)  # of the states
        self.first_child = tensor(bounds[:-1], torch.int64)  # place in `keys`
        self.num_children = tensor(np.diff(bounds), torch.int64)
        self.num_children[0] = 0  # the 1-grams are looked up as a whole
        self.suffix = tensor(_suffixes(keys, firsts, num_words), torch.int64)
        self.unigrams = torch.full((num_words,), -torch.inf, device=device)
        self.unigrams[self.keys[: len(levels[0].keys)]] = self.log_prob[: len(levels[0].keys)]
        self.word_of = tensor(np.append(ngrams.word_of, ngrams.end), torch.int64)  # (V + 1,), the end last
        others = np.flatnonzero(ngrams.word_of != np.arange(ngrams.vocab_size))
        self.word_of_itself = set(others.tolist()) <= {BLANK_ID}
        self.start_word = ngrams.start

    def start(self) -> Tensor:
        """The state (1,) after `<s>`."""
        return self._advance(self.keys.new_zeros(1), self.keys.new_full((1,), self.start_word))

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States (N,), next tokens (N,) -> states (N,)."""
        return self._advance(states, self.word_of[tokens])

    def _advance(self, states: Tensor, words: Tensor) -> Tensor:
        """The longest context that, with the word, is listed gives the new state."""
        keys = self._contexts(states, self.order) * self.num_words + words
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        found = self.keys[place] == keys
        longest = found.int().argmax(0, keepdim=True)
        node = torch.where(found.any(0), place.gather(0, longest)[0] + 1, 0)
        return torch.where(node >= self.num_states, self.suffix[node], node)

    def _contexts(self, states: Tensor, number: int) -> Tensor:
        """States (N,) -> (number, N): themselves, and the contexts that are backed off to, down to the empty one."""
        found = [states]
        while len(found) < number:
            found.append(self.suffix[found[-1]])
        return torch.stack(found)

    def log_probs(self, states: Tensor) -> Tensor:
        """States (N,) -> (N, V + 1): natural log P of every token and, last, of the end, given what came before.

        What stands for blank has no meaning.
        """
        if self.order == 1:
            return self._tokens(self.unigrams.repeat(len(states), 1))
        contexts = self._contexts(states, self.order - 1).flip(0)  # the shortest first
        backoff = self.backoff[contexts].flip(0).cumsum(0).flip(0)  # of a context and all longer ones
        of_longer = torch.cat([backoff[1:], torch.zeros_like(backoff[:1])])
        scores = self.unigrams + backoff[0][:, None]
        count = self.num_children[contexts].flatten()
        row = torch.arange(len(count), device=count.device).repeat_interleave(count)
        behind = torch.arange(len(row), device=count.device) - (count.cumsum(0) - count)[row]
        place = self.first_child[contexts].flatten()[row] + behind
        values = self.log_prob[place] + of_longer.flatten()[row]
        at = row % len(states) * self.num_words + self.keys[place] % self.num_words
        sizes = count.view(len(contexts), -1).sum(1).tolist()
        parts = zip(torch.split(at, sizes), torch.split(values, sizes), strict=True)
        for own, value in parts:  # a longer context's above a shorter one's
            scores.view(-1)[own] = value
        return self._tokens(scores)

    def _tokens(self, scores: Tensor) -> Tensor:
        """Scores of words (N, V + 2) -> of tokens and the end (N, V + 1)."""
        return scores[:, :-1] if self.word_of_itself else scores.index_select(1, self.word_of)


def perplexity(model: NGramModel, sentences: list[list[int]]) -> float:
    """exp of the mean of -log P over all tokens and ends; sentences (token ids) are not empty."""
    total, count = 0.0, 0
    step = max(1, SCORED_WORDS // max(map(len, sentences)))
    for first in range(0, len(sentences), step):
        some = sorted(sentences[first : first + step], key=len, reverse=True)
        device = model.keys.device
        states = model.start().expand(len(some))
        for at in range(len(some[0]) + 1):
            going = [own for own in some if len(own) >= at]
            states = states[: len(going)]
            words = torch.tensor([own[at] if at < len(own) else model.vocab_size for own in going], device=device)
            total -= float(model.log_probs(states).gather(1, words[:, None]).double().sum())
            count += len(going)
            still = sum(len(own) > at for own in going)
            states = model.advance(states[:still], words[:still])
    return math.exp(total / count)


def _suffixes(keys: Array, firsts: Array, num_words: int) -> Array:
    """Of every n-gram (and 0, the empty one) the longest listed one that it ends with, shorter than itself."""
    suffix = np.zeros(len(keys) + 1, dtype=np.int64)
    for first, end in itertools.pairwise(firsts[1:]):
        own = keys[first - 1 : end - 1]
        context, word = suffix[own // num_words], own % num_words
        pending = np.arange(first, end)
        while len(pending):
            wanted = context * num_words + word
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found = keys[place] == wanted
            suffix[pending[found]] = place[found] + 1
            pending, context, word = pending[~found], suffix[context[~found]], word[~found]
    return suffix
