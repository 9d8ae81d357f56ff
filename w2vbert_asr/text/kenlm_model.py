"""KenLM's binary files, by its own Python package where that is installed (Heafield 2011).

An ARPA file needs none of this: text/ngram asks about many sequences at once. KenLM answers one word at a time, so
what may follow a context is asked word by word, once.

Dimension letters: N word sequences, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vbert_asr.errors import DataError, SetupError
from w2vbert_asr.text.arpa import END

_MAGIC = b"mmap lm http://kheafield.com/code"
_LN10 = math.log(10.0)
_MOST_CONTEXTS = 1 << 14  # kept from one search to the next


def is_kenlm(path: Path | str) -> bool:
    """Whether a file begins as KenLM's binary ones do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class KenLMModel:
    """log P(piece | pieces before) of many sequences at once. A state is the number of a context that was met, as far
    as KenLM tells contexts apart; states from before a `start` may be forgotten.

    pieces: of the tokenizer, in the order of their ids; one that the model lacks counts as its `<unk>`.
    """

    def __init__(self, path: Path | str, pieces: Sequence[str], device: torch.device | str = "cpu") -> None:
        try:
            import kenlm
        except ImportError as error:
            raise SetupError(
                f"{path}: a binary file of KenLM, whose package is missing (pip install kenlm, which compiles it); "
                "or give the ARPA file that it was made of"
            ) from error
        try:
            self._model = kenlm.Model(str(path))
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: KenLM cannot read it ({reason}); make it again with build_binary") from error
        self._State = kenlm.State
        self._words = [*pieces, END]
        self._device = device
        self._numbers: dict[Any, int] = {}  # by KenLM's state
        self._states: list[Any] = []
        self._rows: dict[int, Tensor] = {}  # log P of all that may follow a state

    def start(self) -> Tensor:
        """The state (1,) after `<s>`."""
        if len(self._states) > _MOST_CONTEXTS:
            self._numbers, self._states, self._rows = {}, [], {}
        state = self._State()
        self._model.BeginSentenceWrite(state)
        return torch.tensor([self._number(state)], device=self._device)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States (N,), next tokens (N,) -> states (N,)."""
        after = []
        for number, token in zip(states.tolist(), tokens.tolist(), strict=True):
            state = self._State()
            self._model.BaseScore(self._states[number], self._words[token], state)
            after.append(self._number(state))
        return torch.tensor(after, dtype=torch.long, device=self._device)

    def log_probs(self, states: Tensor) -> Tensor:
        """States (N,) -> (N, V + 1): natural log P of every token and, last, of the end, given what came before.

        What stands for blank has no meaning.
        """
        numbers = states.tolist()
        for number in set(numbers) - self._rows.keys():
            self._rows[number] = self._row(self._states[number])
        if not numbers:
            return torch.zeros(0, len(self._words), device=self._device)
        return torch.stack([self._rows[number] for number in numbers])

    def _row(self, state: Any) -> Tensor:
        score, after = self._model.BaseScore, self._State()
        scores = torch.tensor([score(state, word, after) for word in self._words], dtype=torch.float64)
        return (scores * _LN10).to(device=self._device, dtype=torch.float32)

    def _number(self, state: Any) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number
