"""Beam search with prefix merging, frame by frame (see frame_sync).

What has ended the frame and what has not do not compete: the K best of both are kept, of the latter those that are
better than the worst of K that have ended. So those who have yet to pay for their blank displace nobody. With K = 1
nothing is kept beside the one hypothesis: every step takes the best of blank and tokens, which is greedy search.

A symbol of less than 1e-13 times the probability of the best one is not tried. That is below what a score can show,
but for a model that never emits blank: it comes to the cap, and is seen to, where it would otherwise end every frame by
a blank that it does not mean.

Dimension letters: B batch, T frames, K beam, P places of the pool, W tokens looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2vbert_asr.search.frame_sync import Rules, search_frames
from w2vbert_asr.search.fusion import Fusion
from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable

GAMMA = 30.0  # nats, 1e-13


def beam(
    model: Searchable,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    config: SearchConfig,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> up to `beam_size` hypotheses of each utterance, best first."""
    select, places = (best_of_each, 2 * config.beam_size) if config.beam_size > 1 else (_best, 1)
    rules = Rules(select=select, places=places, max_symbols=config.max_symbols_per_frame, gamma=GAMMA)
    return search_frames(model, encoder_out, encoder_out_lens, config, rules, fusion)


def best_of_each(ended: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, 2 K), (B, 2 K * W) -> the K best that have ended the frame, then the K best that have grown."""
    places = ended.shape[1]
    done = ended.topk(places // 2, 1)
    growing = grown.topk(min(places // 2, grown.shape[1]), 1)
    still = growing.values.masked_fill(growing.values <= done.values[:, -1:], -torch.inf)
    missing = places // 2 - still.shape[1]
    scores = torch.nn.functional.pad(torch.cat([done.values, still], 1), (0, missing), value=-torch.inf)
    indices = torch.nn.functional.pad(torch.cat([done.indices, growing.indices + places], 1), (0, missing))
    return scores, indices


def _best(ended: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, P), (B, P * W) -> the P best of both."""
    best = torch.cat([ended, grown], 1).topk(ended.shape[1], 1)
    return best.values, best.indices
