"""Language models in a search: log P of the transducer, plus what other models say of the next token.

Every token adds `lm_weight` log P of the language model (shallow fusion; Gulcehre et al. 2015, arXiv 1503.03535), takes
away `lodr_weight` log P of a low-order n-gram model of the training text, which stands for what the transducer has
learnt of the language (LODR; Zheng et al. 2022, arXiv 2203.16776), and adds `length_reward`; a blank adds nothing. When
an utterance ends, the two models' log P of the end is added in the same way. All of it depends on the tokens alone, so
it is kept by prefix, and hypotheses with the same tokens are merged as before.

Dimension letters: M models, N prefixes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2vbert_asr.errors import ConfigError
from w2vbert_asr.search.hypothesis import SearchConfig
from w2vbert_asr.search.interface import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """parts: M models, all on one device, with their weights; a negative weight takes away."""

    parts: tuple[tuple[LanguageModel, float], ...] = ()
    length_reward: float = 0.0

    @property
    def can_gain(self) -> bool:
        """Whether a token may add more than nothing to a score."""
        return self.length_reward > 0 or any(weight < 0 for _, weight in self.parts)

    def start(self, device: torch.device) -> Tensor:
        """The states (M, 1) of the empty prefix; those of an earlier search are forgotten."""
        states = [model.start() for model, _ in self.parts]
        return torch.stack(states) if states else torch.zeros(0, 1, dtype=torch.long, device=device)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States (M, N), next tokens (N,) -> states (M, N)."""
        own = [model.advance(state, tokens) for (model, _), state in zip(self.parts, states, strict=True)]
        return torch.stack(own) if own else states

    def scores(self, states: Tensor, vocab_size: int, blank_id: int) -> Tensor:
        """States (M, N) -> (N, V + 1): what blank (nothing), every token and, last, the end would add."""
        total = torch.full((states.shape[1], vocab_size + 1), self.length_reward, device=states.device)
        total[:, -1] = 0.0
        for (model, weight), state in zip(self.parts, states, strict=True):
            total.add_(model.log_probs(state), alpha=weight)
        total[:, blank_id] = 0.0
        return total

    def totals(
        self, sequences: Sequence[Sequence[int]], vocab_size: int, blank_id: int, device: torch.device
    ) -> Tensor:
        """(N,) in float64: what N whole sequences of tokens get, their ends with it."""
        lens = torch.tensor([len(tokens) for tokens in sequences], device=device)
        rows = [torch.tensor([*tokens, vocab_size], device=device) for tokens in sequences]  # the end is the last score
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        going = torch.arange(len(rows), device=device)
        states = self.start(device).repeat(1, len(rows))
        total = torch.zeros(len(rows), dtype=torch.float64, device=device)
        for u in range(tokens.shape[1]):
            scores = self.scores(states, vocab_size, blank_id)
            total[going] += scores.gather(1, tokens[going, u, None])[:, 0].double()
            longer = lens[going] > u
            going, states = going[longer], states[:, longer]
            states = self.advance(states, tokens[going, u])
        return total


def fuse(config: SearchConfig, lm: LanguageModel | None = None, lodr: LanguageModel | None = None) -> Fusion | None:
    """What the weights of `config` make of the models; None where nothing is added.

    ConfigError for a weight without its model. A model whose weight is 0 is left out.
    """
    given = {"lm": (lm, config.lm_weight), "lodr": (lodr, -config.lodr_weight)}
    parts = []
    for name, (model, weight) in given.items():
        if weight and model is None:
            raise ConfigError(f"search.{name}_weight: {abs(weight)} without a model; give --{name}")
        if weight and model is not None:
            parts.append((model, weight))
    if not parts and not config.length_reward:
        return None
    return Fusion(parts=tuple(parts), length_reward=config.length_reward)
