"""Back-off in batches against a dictionary, and ARPA files that are wrong."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
import torch

from w2vbert_asr.errors import DataError
from w2vbert_asr.text import arpa
from w2vbert_asr.text.ngram import NGramModel, perplexity

PIECES = ["<blank>", "<unk>", "a", "b", "\u2581c", "d"]
V = len(PIECES)
Table = dict[tuple[str, ...], tuple[float, float]]


def random_table(seed: int, order: int, share: float, words: list[str]) -> Table:
    """n-gram -> (log 10 of P, back-off weight): contexts are listed, what an n-gram ends with need not be."""
    rng = random.Random(seed)
    table: Table = {(word,): (rng.uniform(-3, 0), rng.uniform(-1, 0.5)) for word in words}
    table["<s>",] = (-99.0, rng.uniform(-1, 0.5))
    for n in range(2, order + 1):
        contexts = [gram for gram in table if len(gram) == n - 1 and gram[-1] != "</s>"]
        for gram in itertools.product(contexts, words):
            if rng.random() < share:
                table[(*gram[0], gram[1])] = (rng.uniform(-3, 0), rng.uniform(-1, 0.5) if n < order else 0.0)
    return table


def to_text(table: Table) -> str:
    order = max(map(len, table))
    rng = random.Random(0)
    lines = ["written by a test", "", "\\data\\"]
    lines += [f"ngram {n}={sum(len(gram) == n for gram in table)}" for n in range(1, order + 1)]
    for n in range(1, order + 1):
        lines += ["", f"\\{n}-grams:"]
        rows = [gram for gram in table if len(gram) == n]
        rng.shuffle(rows)
        for gram in rows:
            log_prob, backoff = table[gram]
            lines.append(f"{log_prob!r}\t{' '.join(gram)}" + (f"\t{backoff!r}" if n < order and backoff else ""))
    return "\n".join([*lines, "", "\\end\\", ""])


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lm.arpa"
    path.write_text(text, encoding="utf-8")
    return path


def slow_log_prob(table: Table, history: list[str], word: str, order: int) -> float:
    """The definition, a word at a time; natural log."""
    known = {gram[0] for gram in table}
    history = [one if one in known else "<unk>" for one in history]
    word = word if word in known else "<unk>"
    context = tuple(history[max(0, len(history) - order + 1) :])
    total = 0.0
    while (*context, word) not in table:
        if not context:
            return (total - 99.0) * math.log(10)
        total += table[context][1] if context in table else 0.0
        context = context[1:]
    return (total + table[(*context, word)][0]) * math.log(10)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("share", [0.15, 0.6])
@pytest.mark.parametrize("absent", [[], ["d"], ["d", "<unk>"]])
def test_batches_equal_a_dictionary(tmp_path: Path, order: int, share: float, absent: list[str]) -> None:
    words = [word for word in [*PIECES[1:], "</s>"] if word not in absent]
    table = random_table(order, order, share, words)
    model = NGramModel(arpa.read(write(tmp_path, to_text(table)), PIECES))
    assert model.order == max(map(len, table))
    rng = random.Random(order)
    sentences = [[rng.randrange(1, V) for _ in range(12)] for _ in range(40)]
    states = model.start().repeat(40)
    for at in range(13):
        log_probs = model.log_probs(states)
        assert log_probs.shape == (40, V + 1)
        for row, sentence in enumerate(sentences):
            history = ["<s>", *(PIECES[token] for token in sentence[:at])]
            expected = [slow_log_prob(table, history, word, model.order) for word in [*PIECES[1:], "</s>"]]
            assert log_probs[row, 1:].tolist() == pytest.approx(expected, abs=1e-5, rel=1e-6)
        if at < 12:
            states = model.advance(states, torch.tensor([sentence[at] for sentence in sentences]))


def test_states_are_as_few_as_listed_contexts(tmp_path: Path) -> None:
    """Sequences that the model cannot tell apart have the same state."""
    table = random_table(1, 3, 0.3, [*PIECES[1:], "</s>"])
    model = NGramModel(arpa.read(write(tmp_path, to_text(table)), PIECES))
    contexts = {gram for gram in table if len(gram) < 3}
    state = dict[tuple[str, ...], int]()
    for tokens in itertools.product(range(1, V), repeat=3):
        states = model.start()
        for token in tokens:
            states = model.advance(states, torch.tensor([token]))
        words = tuple(PIECES[token] for token in tokens)
        longest = next(words[n:] for n in (1, 2) if words[n:] in contexts)
        assert state.setdefault(longest, int(states)) == int(states)
    assert len(set(state.values())) == len(state)


def test_written_files_read_back(tmp_path: Path) -> None:
    table = random_table(3, 4, 0.4, [*PIECES[1:], "</s>"])
    first = arpa.read(write(tmp_path, to_text(table)), PIECES)
    with open(tmp_path / "again.arpa", "w", encoding="utf-8") as handle:
        arpa.write(handle, first, PIECES)
    second = arpa.read(tmp_path / "again.arpa", PIECES)
    for old, new in zip(first.levels, second.levels, strict=True):
        assert old.keys.tolist() == new.keys.tolist()
        assert old.log_prob.tolist() == pytest.approx(new.log_prob.tolist(), rel=1e-6)
        assert old.backoff.tolist() == pytest.approx(new.backoff.tolist(), rel=1e-6)


def test_perplexity_is_that_of_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(5, 3, 0.5, [*PIECES[1:], "</s>"])
    model = NGramModel(arpa.read(write(tmp_path, to_text(table)), PIECES))
    rng = random.Random(0)
    sentences = [[rng.randrange(1, V) for _ in range(rng.randrange(1, 9))] for _ in range(30)]
    total, count = 0.0, 0
    for sentence in sentences:
        words = ["<s>", *(PIECES[token] for token in sentence), "</s>"]
        total += sum(slow_log_prob(table, words[:at], words[at], 3) for at in range(1, len(words)))
        count += len(words) - 1
    assert perplexity(model, sentences) == pytest.approx(math.exp(-total / count), rel=1e-5)
    monkeypatch.setattr("w2vbert_asr.text.ngram.SCORED_WORDS", 20)
    assert perplexity(model, sentences) == pytest.approx(math.exp(-total / count), rel=1e-5)


GOOD = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1 <s> -0.5
-1 </s>
-1 a -0.25
-0.5 <unk>

\\2-grams:
-0.1 <s> a
-0.2 a a

\\end\\
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "no line"),
        ("ngram 2=2", "ngram 3=2", "line 3: expected ngram 2=number"),
        ("ngram 2=2", "ngram 2=x", "line 3: expected ngram 2=number"),
        ("ngram 2=2", "ngram 2=3", "line 14: expected a log probability, 2 word.s. .3 such lines., found ''"),
        ("ngram 2=2", "ngram 2=1", "line 13: expected \\\\end\\\\, found '-0.2 a a'"),
        ("ngram 1=4", "ngram 1=3", "line 9: expected \\\\2-grams:, found '-0.5 <unk>'"),
        ("\\2-grams:", "\\3-grams:", "line 11: expected \\\\2-grams:"),
        ("-1 </s>", "-1", "line 7: expected a log probability, 1 word.s., perhaps"),
        ("-0.2 a a", "-0.2 a a -1", "line 13: expected a log probability, 2 word"),
        ("-1 a -0.25", "x a -0.25", "line 8: log probability 'x' is not a number"),
        ("-1 a -0.25", "nan a -0.25", "line 8: log probability 'nan' is not a number"),
        ("-1 a -0.25", "-1 a inf", "line 8: back-off weight 'inf' is not a number"),
        ("-1 a -0.25", "0.25 a", "line 8: log probability 0.25 is above 0"),
        ("-0.2 a a", "-0.2 a e", "line 13: 'e' is no word piece"),
        ("-0.2 a a", "-0.2 a b", "line 13: its last word is not among the 1-grams"),
        ("-0.1 <s> a", "-0.1 b a", "line 12: its context is not listed"),
        ("-0.2 a a", "-0.3 <s> a", "line 13: this n-gram is there twice"),
        ("-1 a -0.25", "-1 <unk>", "line 9: this n-gram is there twice"),
        ("-1 </s>", "-1 d", "no </s>"),
        ("\\end\\", "", "line 16: the file ends here"),
        ("\n\n\\1-grams", "\n\\1-grams", "line 4: expected ngram 3=number"),
    ],
)
def test_malformed_files_are_named_with_the_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    arpa.read(write(tmp_path, GOOD), PIECES)
    assert GOOD.count(old) == 1
    with pytest.raises(DataError, match=message):
        arpa.read(write(tmp_path, GOOD.replace(old, new)), PIECES)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        arpa.read(tmp_path / "none", PIECES)
    (tmp_path / "bytes").write_bytes(b"\\data\\\n\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        arpa.read(tmp_path / "bytes", PIECES)
    with pytest.raises(DataError, match="<s> is a word piece"):
        arpa.read(write(tmp_path, GOOD), [*PIECES, "<s>"])
