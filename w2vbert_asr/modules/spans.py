"""Span masking of feature-encoder frames (Chung et al. 2021; Baevski et al. 2020, section 3.1).

Dimension letters: B batch, T frames, D feature dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2vbert_asr.batch import lengths_to_pad_mask
from w2vbert_asr.counter_random import draw_keys, normal, uniform


@dataclass(frozen=True, kw_only=True)
class SpanMaskConfig:
    """start_prob: probability that a frame starts a span. span: frames of a span. min_spans: of every utterance.

    noise_std: standard deviation of the vectors that replace masked frames (0.1 is the usual value).
    """

    start_prob: float = 0.065
    span: int = 10
    min_spans: int = 2
    noise_std: float = 0.1


def draw_span_mask(
    lens: Tensor, max_len: int, utt_ids: Sequence[str], seed: int, step: int, config: SpanMaskConfig
) -> Tensor:
    """(B, T) bool, True where masked: every frame starts a span of `span` frames with `start_prob`; spans may overlap.

    An utterance whose draw has fewer than `min_spans` whole spans gets the frames that came nearest to starting one.
    Spans end at the end of the utterance and never cover padding.
    """
    frames = torch.arange(max_len, device=lens.device)
    draws = uniform(draw_keys(seed, step, utt_ids, "span", lens.device)[:, None], frames)
    pad_mask = lengths_to_pad_mask(lens, max_len)
    draws = draws.masked_fill(pad_mask, 2.0)
    fits = frames[None, :] <= (lens[:, None] - config.span).clamp(min=0)
    nearest = draws.masked_fill(~fits, 2.0).topk(min(config.min_spans, max_len), dim=1, largest=False).values[:, -1:]
    starts = draws < config.start_prob
    too_few = (starts & fits).sum(1, keepdim=True) < config.min_spans
    starts = starts | (too_few & fits & (draws <= nearest) & (draws < 1.0))
    covered = starts.long().cumsum(1)
    covered = covered - torch.nn.functional.pad(covered, (config.span, 0))[:, :max_len]
    return (covered > 0) & ~pad_mask


def replace_masked(
    features: Tensor, masked: tuple[Tensor, Tensor], utt_ids: Sequence[str], seed: int, step: int, std: float
) -> Tensor:
    """(B, T, D) with the masked frames, of these utterances and numbers, replaced by normal vectors of standard
    deviation `std`.
    """
    dim = features.shape[2]
    rows, frames = masked
    keys = draw_keys(seed, step, utt_ids, "mask vector", features.device)[rows]
    counters = frames[:, None] * dim + torch.arange(dim, device=features.device)
    noise = normal(keys[:, None], counters) * std
    return features.index_put((rows, frames), noise.to(features.dtype))
