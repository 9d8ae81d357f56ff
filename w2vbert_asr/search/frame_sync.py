"""What the searches that go frame by frame have in common: all utterances and hypotheses of a batch at once.

Every utterance has a pool of hypotheses. When a frame begins, each of them is active; then, step by step,
 * every active hypothesis is extended by blank, which ends the frame for it, and by every token, after which it stays
   active (at most `max_symbols` times in a frame and `max_length_ratio` times a frame in all, then by blank alone);
 * a hypothesis that has ended the frame is merged with one that has ended it with the same tokens: their probabilities
   add up, and the better of both alignments gives the times;
 * the search selects which of them the pool keeps,
until none is active. An utterance whose frame has ended goes on to its next one without waiting for the others, and
looks at several together after one in which nothing has grown (see calm_frames); that changes nothing. So the score of
a hypothesis is the log of the sum over all alignments that were never dropped: it is exact if nothing was dropped and
nothing reached a cap. A token sequence that is dropped and found again has lost its earlier alignments.

Source: Graves 2012, arXiv 1211.3711, section 2.6; merging within the frame makes his sum over prefixes unnecessary.
Dimension letters: B batch, T frames, K beam, P places of the pool, R active hypotheses of all utterances, V vocabulary,
W tokens looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from w2vbert_asr.search.calm_frames import Ahead, pass_calm_frames
from w2vbert_asr.search.fusion import Fusion
from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable
from w2vbert_asr.search.moves import Moves, advance, log_probabilities
from w2vbert_asr.search.pool import Pool
from w2vbert_asr.search.prefix_states import PrefixStates
from w2vbert_asr.search.trace import Trace

MAX_WIDTH = 8  # frames looked at together
MAX_SCORES = 1 << 23  # of the symbols in all frames looked at, where that is more than those of one frame
SLOTS_PER_HYPOTHESIS = 8  # prefixes remembered for each of the beam; at least 3 for each place of the pool

Select = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a search that goes frame by frame chooses.

    select: scores (B, P) of those that have ended the frame and (B, P * W) of those that have grown by a token -> the
    scores (B, P) that the pool keeps, and where in both, one behind the other, they stand. places: P. gamma: a symbol
    whose log probability is further than that below that of the best one is not tried, save a blank that has to be.
    """

    select: Select
    places: int
    max_symbols: int
    gamma: float = torch.inf


@torch.no_grad()
def search_frames(
    model: Searchable,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    config: SearchConfig,
    rules: Rules,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> up to `beam_size` hypotheses of each utterance, best first."""
    batch, num_frames, _ = encoder_out.shape
    device = encoder_out.device
    lens = encoder_out_lens.to(device)
    max_tokens = config.max_tokens(lens)[:, None]
    encoder_rows = model.joiner.project_encoder(encoder_out).flatten(0, 1)
    prefixes = PrefixStates(model, batch, SLOTS_PER_HYPOTHESIS * config.beam_size, device, num_frames, fusion)
    pool = Pool.start(prefixes.root_slots, rules.places)
    trace = Trace()
    first_rows = torch.arange(batch, device=device) * num_frames
    frame = torch.zeros_like(lens)
    num_emitted = torch.zeros_like(lens)
    width = torch.ones_like(lens)  # frames looked at
    scores_of_a_frame = batch * config.beam_size * model.joiner.output.out_features
    max_width = min(MAX_WIDTH, max(MAX_SCORES // max(scores_of_a_frame, 1), 1))
    while True:
        pool = replace(pool, active=pool.active & (frame < lens)[:, None])
        rows = pool.active.flatten().nonzero()[:, 0]
        if len(rows) == 0:
            return pool.end(prefixes).read(trace, config)
        at_cap = pool.active & ((num_emitted == rules.max_symbols)[:, None] | (pool.num_tokens >= max_tokens))
        pool = replace(pool, capped=pool.capped | at_cap)
        utterance = rows // rules.places
        ahead = Ahead.of(torch.minimum(width, lens - frame)[utterance])
        slots = pool.slot.flatten()[rows][ahead.row]
        encoder_at = (first_rows + frame)[utterance][ahead.row] + ahead.offset
        logits = model.joiner(encoder_rows.index_select(0, encoder_at), prefixes.vectors.index_select(0, slots))
        log_probs = prefixes.with_lm(log_probabilities(logits), slots)
        if len(ahead.row) > len(rows):
            passed, gained = pass_calm_frames(
                pool, rows, at_cap, log_probs, ahead, model.blank_id, rules.gamma, config.beam_size
            )
            pool.score.view(-1)[rows] += gained
            pool.path_score.view(-1)[rows] += gained
            frame = frame + passed
            log_probs = log_probs.index_select(0, ahead.start + passed[utterance])

        moves = Moves.of(log_probs, rows, model.blank_id, config.beam_size)
        moves = moves.within(rules.gamma, at_cap.flatten()[rows])
        blanked = _end_frame(pool, moves)
        score, choice = rules.select(blanked.score, moves.grown_scores(pool))
        pool = advance(pool, blanked, score, choice, moves, prefixes, trace, frame[:, None].expand_as(score))

        ended = ~pool.active.any(1)
        width = torch.where(ended & (num_emitted == 0), 2 * width, 1).clamp(max=max_width)
        frame = frame + ended
        num_emitted = (num_emitted + 1).masked_fill(ended, 0)
        pool = replace(pool, active=torch.where(ended[:, None], pool.score > -torch.inf, pool.active))


def _end_frame(pool: Pool, moves: Moves) -> Pool:
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
    )
