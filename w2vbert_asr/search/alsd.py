"""Alignment-length-synchronous decoding: all hypotheses of an utterance have made the same number of moves.

A move is a blank, which goes to the next frame, or a token, which stays in the frame; so hypotheses of different length
stand at different frames. At each step every hypothesis is extended by blank and by tokens. Two extensions with the
same tokens are merged before any is dropped: their probabilities add up, and the better of both alignments gives the
times. The K best are kept, and what has taken the blank of the last frame is set aside. So a score is the log of the
sum over all alignments that were never dropped. With K = 1 every step takes the best of blank and tokens.

An utterance of T frames may have `max_length_ratio` times T tokens. It is done when what is left of its probability is
less than what the last of K finished hypotheses has, or at its last move where tokens can add to a score (a length
reward, LODR), so that what is left may still grow.

Source: Saon, Tueske and Audhkhasi 2020, "Alignment-Length Synchronous Decoding for RNN Transducer", ICASSP.
Dimension letters: B batch, T frames, K beam, R active hypotheses of all utterances, V vocabulary.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from w2vbert_asr.search.fusion import Fusion
from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable
from w2vbert_asr.search.moves import Moves, advance, log_probabilities
from w2vbert_asr.search.pool import Pool
from w2vbert_asr.search.prefix_states import PrefixStates, extend_key
from w2vbert_asr.search.trace import Trace

SLOTS_PER_HYPOTHESIS = 8  # prefixes remembered for each of the beam


@torch.no_grad()
def alsd(
    model: Searchable,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    config: SearchConfig,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> up to `beam_size` hypotheses of each utterance, best first."""
    batch, num_frames, _ = encoder_out.shape
    device, size = encoder_out.device, config.beam_size
    lens = encoder_out_lens.to(device)[:, None]
    max_tokens = config.max_tokens(lens)
    encoder_rows = model.joiner.project_encoder(encoder_out).flatten(0, 1)
    prefixes = PrefixStates(model, batch, SLOTS_PER_HYPOTHESIS * size, device, num_frames, fusion)
    trace = Trace()
    pool = Pool.start(prefixes.root_slots, size)
    finished = replace(pool, score=pool.score.masked_fill(lens > 0, -torch.inf)).end(prefixes)
    pool = replace(pool, active=pool.active & (lens > 0))
    may_gain = fusion is not None and fusion.can_gain
    for num_moves in range(num_frames + int(max_tokens.max()) if batch else 0):
        rows = pool.active.flatten().nonzero()[:, 0]
        if len(rows) == 0:
            break
        frames = num_moves - pool.num_tokens
        place = (torch.arange(batch, device=device)[:, None] * num_frames + frames).flatten()[rows]
        slots = pool.slot.flatten()[rows]
        vectors = prefixes.vectors.index_select(0, slots)
        log_probs = log_probabilities(model.joiner(encoder_rows.index_select(0, place), vectors))
        log_probs = prefixes.with_lm(log_probs, slots)
        at_cap = pool.active & (pool.num_tokens >= max_tokens)
        pool = replace(pool, capped=pool.capped | at_cap)

        blanked = _merge(pool, log_probs, rows, model.blank_id, trace, frames)
        moves = Moves.of(log_probs, rows, model.blank_id, size).within(torch.inf, at_cap.flatten()[rows])
        best = torch.cat([blanked.score, moves.grown_scores(pool)], 1).topk(size, 1)
        pool = advance(pool, blanked, best.values, best.indices, moves, prefixes, trace, frames)

        pool = replace(pool, active=pool.score > -torch.inf)
        ended = pool.active & (num_moves + 1 - pool.num_tokens >= lens)
        finished = _best(finished, replace(pool, score=pool.score.masked_fill(~ended, -torch.inf)).end(prefixes))
        score = pool.score.masked_fill(ended, -torch.inf)
        going = (score.logsumexp(1) > finished.score[:, -1]) | may_gain
        pool = replace(pool, score=score, active=(score > -torch.inf) & going[:, None])
    return finished.read(trace, config)


def _merge(pool: Pool, log_probs: Tensor, rows: Tensor, blank_id: int, trace: Trace, frames: Tensor) -> Pool:
    """Every active hypothesis takes its blank; where the pool has it without its last token, too, that token's move
    leads to the same place: both are added up, and the token's probability in log_probs (R, V) is set to zero.
    """
    row_of = torch.zeros_like(pool.key).view(-1)
    row_of[rows] = torch.arange(len(rows), device=rows.device)
    row_of = row_of.view_as(pool.key)
    blank = log_probs[:, blank_id].double()[row_of]
    grown = extend_key(pool.key[:, None, :], pool.last[:, :, None])
    from_parent = (grown == pool.key[:, :, None]) & pool.active[:, :, None] & pool.active[:, None, :]
    merged, parent = from_parent.max(2)  # at most one: the active ones differ from one another
    merged &= pool.num_tokens > 0
    parent_row = row_of.gather(1, parent)
    token = log_probs[parent_row, pool.last].double().masked_fill(~merged, -torch.inf)
    log_probs[parent_row[merged], pool.last[merged]] = -torch.inf

    score = torch.logaddexp(pool.score + blank, pool.score.gather(1, parent) + token)
    path_score = pool.path_score + blank
    path_of_token = pool.path_score.gather(1, parent) + token
    better = merged & (path_of_token > path_score)
    node, capped = pool.node.clone(), torch.where(better, pool.capped.gather(1, parent), pool.capped)
    if better.any():
        at = parent[better] + better.nonzero()[:, 0] * better.shape[1]
        node[better] = trace.emit(pool.node.flatten()[at], pool.last[better], frames.flatten()[at])
    return replace(
        pool,
        score=score.masked_fill(~pool.active, -torch.inf),
        path_score=torch.where(better, path_of_token, path_score),
        node=node,
        capped=capped,
    )


def _best(first: Pool, second: Pool) -> Pool:
    """(B, K), (B, K) -> the K best of both."""
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(Pool)]
    both = Pool(*(torch.cat(pair, 1) for pair in pairs))
    return both.take(both.score.topk(first.score.shape[1], 1).indices)
