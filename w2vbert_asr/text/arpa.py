"""ARPA files, the common text form of n-gram models: probabilities and back-off weights in log 10."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from w2vbert_asr.errors import DataError
from w2vbert_asr.text.ngram import Array, Level, NGrams
from w2vbert_asr.text.tokenizer import UNK_ID

START, END = "<s>", "</s>"
LOG10_OF_ZERO = -99.0  # how the format writes it
_LN10 = math.log(10.0)


def read(path: Path | str, pieces: Sequence[str]) -> NGrams:
    """The n-grams of a file over the word pieces `pieces`, in the order of their ids.

    A piece that the file does not have counts as its `<unk>`, which has probability 0 (1e-99) where it is missing, too.
    DataError with the line for a file that is malformed, or has words that are no pieces.
    """
    try:
        with open(path, encoding="utf-8", newline="\n") as handle:
            return _Reader(str(path), handle, pieces).read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); `w2vbert ngram` makes it") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); give an ARPA file") from error


def write(handle: IO[str], ngrams: NGrams, pieces: Sequence[str]) -> None:
    """The n-grams as an ARPA file, in the order of their levels."""
    words = [*pieces, END, START]
    handle.write("\\data\\\n")
    for order, level in enumerate(ngrams.levels, 1):
        handle.write(f"ngram {order}={len(level.keys)}\n")
    contexts = [""]
    for order, level in enumerate(ngrams.levels, 1):
        handle.write(f"\n\\{order}-grams:\n")
        parents, last = divmod(level.keys, ngrams.num_words)
        texts = [contexts[parent] + words[word] for parent, word in zip(parents.tolist(), last.tolist(), strict=True)]
        rows = zip((level.log_prob / _LN10).tolist(), texts, (level.backoff / _LN10).tolist(), strict=True)
        if order < len(ngrams.levels):
            handle.writelines(f"{log_prob:.7g}\t{text}\t{backoff:.7g}\n" for log_prob, text, backoff in rows)
        else:
            handle.writelines(f"{log_prob:.7g}\t{text}\n" for log_prob, text, _ in rows)
        contexts = [f"{text} " for text in texts]
    handle.write("\n\\end\\\n")


class _Reader:
    """One pass over the lines; `number` is that of the last one read."""

    def __init__(self, path: str, handle: IO[str], pieces: Sequence[str]) -> None:
        self.path, self.handle, self.number = path, handle, 0
        self.vocab_size = len(pieces)
        self.num_words = self.vocab_size + 2
        self.words = {piece: index for index, piece in enumerate(pieces)}
        for index, mark in enumerate((END, START), len(pieces)):
            if mark in self.words:
                raise DataError(f"{mark} is a word piece, and means the start or end of a sentence in ARPA files")
            self.words[mark] = index

    def read(self) -> NGrams:
        counts = self._header()
        levels: list[Level] = []
        for order, count in enumerate(counts, 1):
            if (line := self._line()) != f"\\{order}-grams:":
                self._fail(f"expected \\{order}-grams:, found {line!r}")
            levels.append(self._section(order, count, levels, is_last=order == len(counts)))
            if order == 1:
                levels[0] = self._with_unk(levels[0])
        if (line := self._line()) != "\\end\\":
            self._fail(f"expected \\end\\, found {line!r}")
        word_of = np.arange(self.vocab_size)
        word_of[~np.isin(word_of, levels[0].keys)] = UNK_ID
        return NGrams(vocab_size=self.vocab_size, levels=tuple(levels), word_of=word_of)

    def _fail(self, message: str, number: int | None = None) -> NoReturn:
        line = self.number if number is None else number
        raise DataError(f"{self.path}: line {line}: {message}; give an ARPA file, such as `w2vbert ngram` makes")

    def _line(self) -> str:
        """The next line that is not blank."""
        for text in self.handle:
            self.number += 1
            if text := text.strip():
                return text
        self.number += 1
        return self._fail("the file ends here, without \\end\\")

    def _header(self) -> list[int]:
        """The number of n-grams of each order. Anything may stand before it, as the format has it."""
        try:
            while self._line() != "\\data\\":
                pass
        except DataError:
            self._fail("the file has no line \\data\\")
        counts: list[int] = []
        for text in self.handle:
            self.number += 1
            if not (text := text.strip()):
                if counts:
                    return counts
                continue
            order, _, count = text.removeprefix("ngram").partition("=")
            if not text.startswith("ngram") or order.strip() != str(len(counts) + 1) or not count.strip().isdecimal():
                self._fail(f"expected ngram {len(counts) + 1}=number and, after the last, a blank line; found {text!r}")
            counts.append(int(count))
        return self._fail("the file ends in its header")

    def _section(self, order: int, count: int, levels: list[Level], is_last: bool) -> Level:
        """The `count` lines of n-grams that follow, each checked against the levels before."""
        words, log_probs, backoffs = array("q"), array("d"), array("d")
        first = self.number + 1
        known = self.words
        for _ in range(count):
            self.number += 1
            fields = self.handle.readline().split()
            if len(fields) != order + 1 and (is_last or len(fields) != order + 2):
                expected = f"a log probability, {order} word(s)" + ("" if is_last else ", perhaps a back-off weight")
                self._fail(f"expected {expected} ({count} such lines), found {' '.join(fields)!r}")
            try:
                words.extend([known[word] for word in fields[1 : order + 1]])
            except KeyError as error:
                self._fail(f"{error.args[0]!r} is no word piece of this model's tokenizer")
            log_probs.append(self._number(fields[0], "log probability"))
            backoffs.append(self._number(fields[-1], "back-off weight") if len(fields) == order + 2 else 0.0)
            if log_probs[-1] > 0:
                self._fail(f"log probability {fields[0]} is above 0")
        table = np.frombuffer(words, dtype=np.int64).reshape(-1, order) if count else np.zeros((0, order), np.int64)
        keys = self._keys(table, first, levels)
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        if (twice := keys[1:] == keys[:-1]).any():
            self._fail("this n-gram is there twice", first + int(by_key[1:][twice].min()))
        values = [np.array(values, dtype=np.float64)[by_key] * _LN10 for values in (log_probs, backoffs)]
        return Level(keys, values[0], values[1])

    def _keys(self, table: Array, first: int, levels: list[Level]) -> Array:
        parent = np.zeros(len(table), dtype=np.int64)
        for level, word in zip(levels, table.T[:-1], strict=True):
            parent, found = level.find(parent, word, self.num_words)
            if not found.all():
                self._fail("its context is not listed", first + int(found.argmin()))
        if levels:
            _, found = levels[0].find(np.zeros_like(parent), table[:, -1], self.num_words)
            if not found.all():
                self._fail("its last word is not among the 1-grams", first + int(found.argmin()))
        keys: Array = parent * self.num_words + table[:, -1]
        return keys

    def _with_unk(self, level: Level) -> Level:
        for mark in (START, END):
            if self.words[mark] not in level.keys:
                self._fail(f"the 1-grams have no {mark}")
        if UNK_ID in level.keys:
            return level
        at = int(np.searchsorted(level.keys, UNK_ID))
        return Level(
            np.insert(level.keys, at, UNK_ID),
            np.insert(level.log_prob, at, LOG10_OF_ZERO * _LN10),
            np.insert(level.backoff, at, 0.0),
        )

    def _number(self, text: str, name: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value) or value == math.inf:
            self._fail(f"{name} {text!r} is not a number")
        return max(value, LOG10_OF_ZERO)
