"""Beam search with prefix merging, frame by frame (see frame_sync): one pool, in which the K best of each step stay.

What is approximate: the K best are chosen while some have paid for their blank and others have not. With K = 1 every
step takes the best of blank and tokens, which is greedy search.

Dimension letters: B batch, T frames, K beam, W tokens looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2vbert_asr.search.frame_sync import Rules, search_frames
from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable


def beam(
    model: Searchable, encoder_out: Tensor, encoder_out_lens: Tensor, config: SearchConfig
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> up to `beam_size` hypotheses of each utterance, best first."""
    rules = Rules(select=_best, places=config.beam_size, max_symbols=config.max_symbols_per_frame)
    return search_frames(model, encoder_out, encoder_out_lens, config, rules)


def _best(ended: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K), (B, K * W) -> the K best of both."""
    best = torch.cat([ended, grown], 1).topk(ended.shape[1], 1)
    return best.values, best.indices
