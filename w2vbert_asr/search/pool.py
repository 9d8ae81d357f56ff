"""The hypotheses that a search keeps of each utterance, as tensors.

Dimension letters: B batch, P places of an utterance, N some places.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.prefix_states import ROOT_KEY, PrefixStates
from w2vbert_asr.search.trace import ROOT_NODE, Trace


@dataclass(frozen=True)
class Pool:
    """P places of each utterance, every field (B, P); a score of -inf marks an empty one, and only its score counts."""

    score: Tensor  # log of the summed probability, with what language models add
    path_score: Tensor  # of the best alignment alone
    key: Tensor  # of the tokens, see prefix_states
    slot: Tensor  # of the decoder's vector and state
    node: Tensor  # last emission of the best alignment, see trace
    last: Tensor  # last token
    num_tokens: Tensor
    active: Tensor
    capped: Tensor  # the best alignment came to the limit on tokens
    lm_score: Tensor  # what language models have added, once the utterance has ended

    @staticmethod
    def start(root_slots: Tensor, places: int) -> Pool:
        """The empty prefix alone, active."""
        slot = root_slots[:, None].repeat(1, places)
        score = torch.full(slot.shape, -torch.inf, dtype=torch.float64, device=slot.device)
        score[:, 0] = 0.0
        zeros, none = torch.zeros_like(slot), torch.zeros_like(slot, dtype=torch.bool)
        return Pool(
            score=score,
            path_score=score.clone(),
            key=torch.full_like(slot, ROOT_KEY),
            slot=slot,
            node=torch.full_like(slot, ROOT_NODE),
            last=zeros,
            num_tokens=zeros,
            active=score > -torch.inf,
            capped=none,
            lm_score=torch.zeros_like(score),
        )

    def take(self, index: Tensor) -> Pool:
        """The hypotheses at the places `index` (B, N), of each utterance its own."""
        return Pool(*(getattr(self, field.name).gather(1, index) for field in fields(self)))

    def end(self, prefixes: PrefixStates) -> Pool:
        """The same hypotheses as whole utterances."""
        end, total = prefixes.ends(self.slot)
        return replace(self, score=self.score + end, lm_score=total)

    def read(self, trace: Trace, config: SearchConfig) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance, best first."""

        def rank(hypothesis: Hypothesis) -> float:
            length = len(hypothesis.tokens) + 1 if config.length_normalization else 1
            return (hypothesis.score + hypothesis.lm_score) / length

        nodes, capped = self.node.tolist(), self.capped.tolist()
        scores, lm_scores = (self.score - self.lm_score).tolist(), self.lm_score.tolist()
        found = []
        for own in zip(trace.read(nodes), scores, capped, lm_scores, strict=True):
            hypotheses = [
                Hypothesis(emissions.tokens, score, emissions.frames, cap, lm_score)
                for emissions, score, cap, lm_score in zip(*own, strict=True)
                if score > -torch.inf
            ]
            found.append(sorted(hypotheses, key=rank, reverse=True)[: config.beam_size])
        return found
