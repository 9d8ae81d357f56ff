"""Several frames looked at together, where all hypotheses only take blanks.

Most frames of speech emit nothing. As long as that is so the hypotheses stay what they are, so the joiner may look at
some frames ahead of them at once, and an utterance goes straight to the first frame in which something grows: label
looping (Bataev et al. 2024, arXiv 2406.06220), for a beam.

Dimension letters: B batch, P places of the pool, R active hypotheses of all utterances, N pairs of a hypothesis and a
frame, W frames looked at, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from w2vbert_asr.search.pool import Pool


@dataclass(frozen=True)
class Ahead:
    """Pairs of an active hypothesis and a frame, several frames one behind another for each of R hypotheses."""

    row: Tensor  # (N,) the hypothesis of each pair
    offset: Tensor  # (N,) its frame, from the one that the hypothesis has come to
    start: Tensor  # (R,) the first pair of each hypothesis
    length: Tensor  # (R,)

    @staticmethod
    def of(length: Tensor) -> Ahead:
        start = length.cumsum(0) - length
        row = torch.repeat_interleave(length)
        return Ahead(row, torch.arange(len(row), device=row.device) - start[row], start, length)


def pass_calm_frames(
    pool: Pool,
    rows: Tensor,
    at_cap: Tensor,
    log_probs: Tensor,
    ahead: Ahead,
    blank_id: int,
    gamma: float,
    beam_size: int,
) -> tuple[Tensor, Tensor]:
    """How many frames each utterance passes by blanks alone (B,), and what that adds to the scores of `rows` (R,).

    A frame is calm if no hypothesis tries a token in it, or if the beam is full and the best of those that grow is no
    better than the worst of those that take blank. The last frame looked at is left to the step that follows.
    """
    batch, places = pool.score.shape
    blank = log_probs.new_zeros((len(rows), int(ahead.length.max())), dtype=torch.float64)  # (R, W)
    token = torch.full_like(blank, -torch.inf)
    blank[ahead.row, ahead.offset] = log_probs[:, blank_id].double()
    token[ahead.row, ahead.offset] = _best_token(log_probs, blank_id).double()
    tokens_end = at_cap.flatten()[rows, None]
    tried = (token >= blank - gamma) & ~tokens_end
    dropped = (blank < token - gamma) & ~tokens_end

    def of_utterances(values: Tensor, elsewhere: float) -> Tensor:
        """(R, W) -> (B, P, W)"""
        table = values.new_full((batch * places, values.shape[1]), elsewhere)
        table[rows] = values
        return table.view(batch, places, -1)

    by_blanks = blank.cumsum(1)
    score = pool.score.flatten()[rows, None]
    worst = of_utterances((score + by_blanks).masked_fill(dropped, -torch.inf), torch.inf).amin(1)
    worst = worst.masked_fill((pool.active.sum(1) < beam_size)[:, None], -torch.inf)
    grown = of_utterances((score + by_blanks - blank + token).masked_fill(~tried, -torch.inf), -torch.inf).amax(1)
    calm = grown <= worst

    utterance = rows // places
    most = torch.zeros_like(pool.key[:, 0])
    most[utterance] = ahead.length - 1
    passed = torch.minimum(calm.long().cumprod(1).sum(1), most)
    gained = torch.nn.functional.pad(by_blanks, (1, 0)).gather(1, passed[utterance, None])[:, 0]
    return passed, gained


def _best_token(log_probs: Tensor, blank_id: int) -> Tensor:
    """(N, V) -> (N,), blank left out: for the moment it takes to look, without a copy of all."""
    blank = log_probs[:, blank_id].clone()
    log_probs[:, blank_id] = -torch.inf
    best = log_probs.amax(1)
    log_probs[:, blank_id] = blank
    return best
