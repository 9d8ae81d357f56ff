"""KenLM's own answers, where it is installed, against ours to the same ARPA file; and what is said where it is not."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from tests.text.test_ngram import PIECES, V, random_table, to_text, write
from w2vbert_asr.errors import DataError, SetupError
from w2vbert_asr.text import arpa, kenlm_model
from w2vbert_asr.text.kenlm_model import KenLMModel, is_kenlm
from w2vbert_asr.text.kneser_ney import train
from w2vbert_asr.text.ngram import NGramModel


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("pieces_seen", [V, V - 1])
def test_the_same_as_ours(tmp_path: Path, order: int, pieces_seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kenlm")
    rng = random.Random(order)
    sentences = [[rng.randrange(2, pieces_seen) for _ in range(rng.randrange(9))] for _ in range(60)]
    path = tmp_path / "lm.arpa"
    with open(path, "w", encoding="utf-8") as handle:
        arpa.write(handle, train(sentences, V, order), PIECES)
    ours, theirs = NGramModel(arpa.read(path, PIECES)), KenLMModel(path, PIECES)
    for most in (kenlm_model._MOST_CONTEXTS, 0):  # 0: forgets at every start
        monkeypatch.setattr(kenlm_model, "_MOST_CONTEXTS", most)
        states, others = ours.start().repeat(20), theirs.start().repeat(20)
        for _ in range(9):
            torch.testing.assert_close(
                theirs.log_probs(others)[:, 1:], ours.log_probs(states)[:, 1:], atol=1e-5, rtol=1e-5
            )
            tokens = torch.tensor([rng.randrange(1, V) for _ in range(20)])
            states, others = ours.advance(states, tokens), theirs.advance(others, tokens)
        assert theirs.log_probs(others[:0]).shape == (0, V + 1)
        assert len(theirs._states) <= sum(V**n for n in range(order))


def test_a_binary_file_is_known_by_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lm.bin"
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(200))
    assert is_kenlm(path) and not is_kenlm(tmp_path) and not is_kenlm(tmp_path / "none")
    assert not is_kenlm(write(tmp_path, to_text(random_table(1, 2, 0.4, PIECES[1:]))))
    if "kenlm" in sys.modules or _installed():
        with pytest.raises(DataError, match="KenLM cannot read it"):
            KenLMModel(path, PIECES)
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(SetupError, match="pip install kenlm"):
        KenLMModel(path, PIECES)


def _installed() -> bool:
    try:
        import kenlm  # noqa: F401
    except ImportError:
        return False
    return True
