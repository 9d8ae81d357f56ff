"""Frame-synchronous beam search with prefix merging, over all utterances and hypotheses of a batch at once.

Every utterance has a pool of at most K hypotheses. When a frame begins, each of them is active; then, step by step,
 * every active hypothesis is extended by blank, which ends the frame for it, and by every token, after which it stays
   active (at most `max_symbols_per_frame` times in a frame, then by blank alone);
 * a hypothesis that has ended the frame is merged with one that has ended it with the same tokens: their probabilities
   add up, and the better of both alignments gives the times;
 * the K best are kept, whether they have ended the frame or not,
until none is active. So the score of a hypothesis is the log of the sum over all alignments that were never dropped: it
is exact if the pool never overflows and no frame reaches the cap. What is approximate: the K best are chosen while some
have paid for their blank and others have not, and a token sequence that is dropped and found again has lost its earlier
alignments. With K = 1 every step takes the best of blank and tokens, which is greedy search.

Source: Graves 2012, arXiv 1211.3711, section 2.6; merging within the frame makes his sum over prefixes unnecessary.
Dimension letters: B batch, T frames, K beam, R active hypotheses of all utterances, V vocabulary, W tokens looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable
from w2vbert_asr.search.prefix_states import ROOT_KEY, PrefixStates, extend_key
from w2vbert_asr.search.trace import ROOT_NODE, Trace

SLOTS_PER_HYPOTHESIS = 8  # prefixes remembered for each in the pool; at least 3


@torch.no_grad()
def beam(
    model: Searchable, encoder_out: Tensor, encoder_out_lens: Tensor, config: SearchConfig
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> up to `beam_size` hypotheses of each utterance, best first."""
    batch, num_frames, _ = encoder_out.shape
    lens = encoder_out_lens.to(encoder_out.device)
    encoder_proj = model.joiner.project_encoder(encoder_out)
    prefixes = PrefixStates(model, batch, SLOTS_PER_HYPOTHESIS * config.beam_size, encoder_out.device)
    pool = _Pool.start(prefixes.root_slots, config.beam_size)
    trace = Trace()
    for frame in range(num_frames):
        pool = replace(pool, active=(pool.score > -torch.inf) & (frame < lens)[:, None])
        for num_emitted in range(config.max_symbols_per_frame + 1):
            rows = pool.active.flatten().nonzero()[:, 0]
            if len(rows) == 0:
                break
            vectors = prefixes.vectors.index_select(0, pool.slot.flatten()[rows])
            logits = model.joiner(encoder_proj[rows // config.beam_size, frame], vectors)
            moves = _Moves.of(logits, rows, model.blank_id, config.beam_size)
            if num_emitted < config.max_symbols_per_frame:
                pool = _step(pool, moves, prefixes, trace, frame)
            else:
                pool = _end_frame(replace(pool, capped=pool.capped | pool.active), moves)
    return _hypotheses(pool, trace, config)


@dataclass(frozen=True)
class _Pool:
    """K hypotheses of each utterance, every field (B, K); a score of -inf marks an empty place."""

    score: Tensor  # log of the summed probability
    path_score: Tensor  # of the best alignment alone
    key: Tensor  # of the tokens, see prefix_states
    slot: Tensor  # of the decoder's vector and state
    node: Tensor  # last emission of the best alignment, see trace
    active: Tensor  # has not ended the frame
    capped: Tensor

    @staticmethod
    def start(root_slots: Tensor, size: int) -> _Pool:
        """The empty prefix alone."""
        slot = root_slots[:, None].repeat(1, size)
        score = torch.full(slot.shape, -torch.inf, dtype=torch.float64, device=slot.device)
        score[:, 0] = 0.0
        none = torch.zeros_like(slot, dtype=torch.bool)
        return _Pool(
            score, score.clone(), torch.full_like(slot, ROOT_KEY), slot, torch.full_like(slot, ROOT_NODE), none, none
        )

    def take(self, index: Tensor) -> _Pool:
        """The hypotheses `index` (B, K), of each utterance its own."""
        return _Pool(*(getattr(self, field.name).gather(1, index) for field in fields(self)))


@dataclass(frozen=True)
class _Moves:
    """What the active hypotheses may do next, with log probabilities."""

    rows: Tensor  # (R,) places of the active hypotheses in the flat pool
    blank: Tensor  # (R,)
    token_scores: Tensor  # (R, W), of the W best tokens; more than K cannot survive
    tokens: Tensor  # (R, W)

    @staticmethod
    def of(logits: Tensor, rows: Tensor, blank_id: int, beam_size: int) -> _Moves:
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        blank = log_probs[:, blank_id].to(torch.float64, copy=True)
        log_probs[:, blank_id] = -torch.inf
        best = log_probs.topk(min(beam_size, log_probs.shape[1] - 1), 1)
        return _Moves(rows, blank, best.values.double(), best.indices)


def _end_frame(pool: _Pool, moves: _Moves) -> _Pool:
    """Every active hypothesis takes its blank and joins its equal among those that have ended the frame, if any."""
    score, path_score = pool.score.clone(), pool.path_score.clone()
    score.view(-1)[moves.rows] += moves.blank
    path_score.view(-1)[moves.rows] += moves.blank
    ended = ~pool.active & (score > -torch.inf)
    equal = (pool.key[:, :, None] == pool.key[:, None, :]) & ended[:, :, None] & pool.active[:, None, :]
    joined, partner = equal.max(2)  # at most one: the active ones differ from one another, and so do the ended
    score = torch.where(joined, torch.logaddexp(score, score.gather(1, partner)), score)
    score = score.masked_fill(equal.any(1), -torch.inf)
    better = joined & (path_score.gather(1, partner) > path_score)
    return replace(
        pool,
        score=score,
        path_score=torch.where(better, path_score.gather(1, partner), path_score),
        node=torch.where(better, pool.node.gather(1, partner), pool.node),
        capped=torch.where(better, pool.capped.gather(1, partner), pool.capped),
        active=torch.zeros_like(pool.active),
    )


def _step(pool: _Pool, moves: _Moves, prefixes: PrefixStates, trace: Trace, frame: int) -> _Pool:
    """Extend every active hypothesis by blank and by tokens, and keep the K best of each utterance."""
    (batch, size), width = pool.score.shape, moves.tokens.shape[1]
    ended = _end_frame(pool, moves)
    grown_scores = pool.score.new_full((batch * size, width), -torch.inf)
    grown_scores[moves.rows] = pool.score.flatten()[moves.rows, None] + moves.token_scores
    score, choice = torch.cat([ended.score, grown_scores.view(batch, -1)], 1).topk(size, 1)
    is_grown = (choice >= size) & (score > -torch.inf)
    parent = torch.where(is_grown, (choice - size) // max(width, 1), choice.clamp(max=size - 1))
    new = replace(ended.take(parent), score=score, active=is_grown)

    grown = is_grown.flatten().nonzero()[:, 0]
    if len(grown) == 0:
        return new
    utterance = grown // size
    parents = utterance * size + parent.flatten()[grown]
    move_of = torch.empty_like(pool.key).view(-1)
    move_of[moves.rows] = torch.arange(len(moves.rows), device=parents.device)
    move = move_of[parents], (choice.flatten()[grown] - size) % width
    tokens = moves.tokens[move]
    keys = extend_key(pool.key.flatten()[parents], tokens)
    new.path_score.view(-1)[grown] = pool.path_score.flatten()[parents] + moves.token_scores[move]
    new.key.view(-1)[grown] = keys
    new.node.view(-1)[grown] = trace.emit(pool.node.flatten()[parents], tokens, frame)
    new.slot.view(-1)[grown] = prefixes.extend(new.slot, utterance, pool.slot.flatten()[parents], tokens, keys)
    return new


def _hypotheses(pool: _Pool, trace: Trace, config: SearchConfig) -> list[list[Hypothesis]]:
    def rank(hypothesis: Hypothesis) -> float:
        return hypothesis.score / (len(hypothesis.tokens) + 1 if config.length_normalization else 1)

    nodes, scores, capped = pool.node.tolist(), pool.score.tolist(), pool.capped.tolist()
    found = []
    for own in zip(trace.read(nodes), scores, capped, strict=True):
        hypotheses = [
            Hypothesis(emissions.tokens, score, emissions.frames, cap)
            for emissions, score, cap in zip(*own, strict=True)
            if score > -torch.inf
        ]
        found.append(sorted(hypotheses, key=rank, reverse=True))
    return found
