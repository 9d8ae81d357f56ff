"""Modified adaptive expansion search, frame by frame (see frame_sync): few symbols are tried, and few times a frame.

Of every hypothesis the symbols within `maes_gamma` of its best one are tried, in at most `maes_steps` steps a frame;
then blank alone.
What has ended the frame and what has not do not compete: the K best of both are kept, of the latter those that are
better than the worst of K that have ended. Those who have not paid for their blank displace nobody, so nothing is lost
that a search which waits for the end of the frame would find.

Source: Kim and Lee 2020 ("Accelerating RNN Transducer Inference via Adaptive Expansion Search"); "modified" as in
ESPnet: a fixed number of steps. Here hypotheses are merged when they end the frame, in place of the sum over prefixes
before it, and no more than K go on to the next step.
Dimension letters: B batch, T frames, K beam, W tokens looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2vbert_asr.search.frame_sync import Rules, search_frames
from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable


def maes(
    model: Searchable, encoder_out: Tensor, encoder_out_lens: Tensor, config: SearchConfig
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> up to `beam_size` hypotheses of each utterance, best first."""
    rules = Rules(
        select=_best_of_each, places=2 * config.beam_size, max_symbols=config.maes_steps, gamma=config.maes_gamma
    )
    return search_frames(model, encoder_out, encoder_out_lens, config, rules)


def _best_of_each(ended: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2 K), (B, 2 K * W) -> the K best that have ended the frame, then the K best that have grown."""
    places = ended.shape[1]
    done = ended.topk(places // 2, 1)
    growing = grown.topk(min(places // 2, grown.shape[1]), 1)
    still = growing.values.masked_fill(growing.values <= done.values[:, -1:], -torch.inf)
    missing = places // 2 - still.shape[1]
    scores = torch.nn.functional.pad(torch.cat([done.values, still], 1), (0, missing), value=-torch.inf)
    indices = torch.nn.functional.pad(torch.cat([done.indices, growing.indices + places], 1), (0, missing))
    return scores, indices
