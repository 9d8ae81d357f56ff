"""What hypotheses may do next, and a pool after one of these moves.

Dimension letters: B batch, P places of an utterance, N of them afterwards, R active hypotheses of all utterances, V
vocabulary, W tokens looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from w2vbert_asr.search.pool import Pool
from w2vbert_asr.search.prefix_states import PrefixStates, extend_key
from w2vbert_asr.search.trace import Trace


def log_probabilities(logits: Tensor) -> Tensor:
    """Logits (..., V) -> natural log probabilities, in float32 or better."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


@dataclass(frozen=True)
class Moves:
    """What the active hypotheses may do next, with log probabilities."""

    rows: Tensor  # (R,) places of the active hypotheses in the flat pool
    blank: Tensor  # (R,)
    token_scores: Tensor  # (R, W), of the W best tokens; more than K cannot survive
    tokens: Tensor  # (R, W)

    @staticmethod
    def of(log_probs: Tensor, rows: Tensor, blank_id: int, beam_size: int) -> Moves:
        """Of log_probs (R, V), whose blanks are overwritten."""
        blank = log_probs[:, blank_id].to(torch.float64, copy=True)
        log_probs[:, blank_id] = -torch.inf
        best = log_probs.topk(min(beam_size, log_probs.shape[1] - 1), 1)
        return Moves(rows, blank, best.values.double(), best.indices)

    def within(self, gamma: float, at_cap: Tensor) -> Moves:
        """Without symbols that are more than gamma below the best; where at_cap (R,), without all tokens instead."""
        if gamma < torch.inf:
            least = torch.maximum(self.blank, self.token_scores[:, 0]) - gamma
            blank = self.blank.masked_fill((self.blank < least) & ~at_cap, -torch.inf)
            dropped = (self.token_scores < least[:, None]) | at_cap[:, None]
        else:
            blank, dropped = self.blank, at_cap[:, None]
        return replace(self, blank=blank, token_scores=self.token_scores.masked_fill(dropped, -torch.inf))

    def grown_scores(self, pool: Pool) -> Tensor:
        """(B, P * W) scores of the hypotheses of `pool` with each token; -inf where none is."""
        batch, places = pool.score.shape
        scores = pool.score.new_full((batch * places, self.tokens.shape[1]), -torch.inf)
        scores[self.rows] = pool.score.flatten()[self.rows, None] + self.token_scores
        return scores.view(batch, -1)


def advance(
    pool: Pool,
    blanked: Pool,
    score: Tensor,
    choice: Tensor,
    moves: Moves,
    prefixes: PrefixStates,
    trace: Trace,
    frames: Tensor,
) -> Pool:
    """The chosen ones of `blanked` (B, P) and of the hypotheses of `pool` (B, P), each longer by a token.

    score, choice (B, N): the scores that they are to have, and where they stand among the P of `blanked` and, behind
    them, the P * W that have grown; frames (B, P): from which `pool` emits. Those that have grown are active.
    """
    places, width = pool.score.shape[1], moves.tokens.shape[1]
    is_grown = (choice >= places) & (score > -torch.inf)
    parent = torch.where(is_grown, (choice - places) // max(width, 1), choice.clamp(max=places - 1))
    new = replace(blanked.take(parent), score=score, active=is_grown)

    grown = is_grown.flatten().nonzero()[:, 0]
    if len(grown) == 0:
        return new
    utterance = grown // score.shape[1]
    parents = utterance * places + parent.flatten()[grown]
    move_of = torch.empty_like(pool.key).view(-1)
    move_of[moves.rows] = torch.arange(len(moves.rows), device=parents.device)
    move = move_of[parents], (choice.flatten()[grown] - places) % width
    tokens = moves.tokens[move]
    keys = extend_key(pool.key.flatten()[parents], tokens)
    new.path_score.view(-1)[grown] = pool.path_score.flatten()[parents] + moves.token_scores[move]
    new.key.view(-1)[grown] = keys
    new.last.view(-1)[grown] = tokens
    new.num_tokens.view(-1)[grown] += 1
    new.node.view(-1)[grown] = trace.emit(pool.node.flatten()[parents], tokens, frames.flatten()[parents])
    new.slot.view(-1)[grown] = prefixes.extend(new.slot, utterance, pool.slot.flatten()[parents], tokens, keys)
    return new
