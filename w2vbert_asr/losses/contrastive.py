"""The contrastive task: find the own quantized vector of a masked frame among distractors of the same utterance.

Baevski et al. 2020, section 3.2, equation 3; Chung et al. 2021. Dimension letters: B batch, M masked
frames (padded to the longest), D vector dimension, G codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vbert_asr.counter_random import draw_keys, uniform


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """num_distractors: K. temperature: of the cosine similarities (both usual values; the paper does not state
    them).
    """

    num_distractors: int = 100
    temperature: float = 0.1


@dataclass(frozen=True)
class ContrastiveOutput:
    """loss: (B,), sums over frames. count: frames with at least one other masked frame. correct: frames ranked right.

    equal_distractors of num_distractors drawn ones had the positive's codes; they do not enter the loss.
    """

    loss: Tensor
    count: Tensor
    correct: Tensor
    equal_distractors: Tensor
    num_distractors: Tensor


def draw_distractors(valid: Tensor, frames: Tensor, utt_ids: Sequence[str], seed: int, step: int, num: int) -> Tensor:
    """(B, M, M) bool: for each masked frame (row), `num` others of its utterance, uniformly, without replacement.

    valid (B, M): False at padding. frames (B, M): frame index of each, so that the draw does not depend on the batch.
    With fewer than `num` others all of them are taken.
    """
    size = valid.shape[1]
    keys = draw_keys(seed, step, utt_ids, "distractors", valid.device)
    allowed = valid[:, None, :] & valid[:, :, None] & ~torch.eye(size, dtype=torch.bool, device=valid.device)
    if size - 1 <= num:
        return allowed
    counters = (frames[:, :, None] << 24) + frames[:, None, :]
    draws = uniform(keys[:, None, None], counters).masked_fill(~allowed, 2.0)
    threshold = draws.topk(num, dim=-1, largest=False, sorted=False).values.amax(-1, keepdim=True)
    return allowed & (draws <= threshold)


def contrastive_loss(
    context: Tensor, quantized: Tensor, codes: Tensor, valid: Tensor, distractors: Tensor, config: ContrastiveConfig
) -> ContrastiveOutput:
    """InfoNCE over masked frames.

    context, quantized (B, M, D); codes (B, M, G) of the quantized vectors; valid (B, M); distractors (B, M, M).
    One (M, M) product an utterance holds every similarity that any choice of distractors needs. Distractors with the
    positive's codes are left out. Float32 whatever the autocast.
    """
    with torch.autocast(context.device.type, enabled=False):
        similarity = F.normalize(context.float(), dim=-1) @ F.normalize(quantized.float(), dim=-1).transpose(1, 2)
        similarity = similarity / config.temperature
        equal = (codes[:, :, None] == codes[:, None, :]).all(-1)
        positive = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
        candidates = (distractors & ~equal) | (positive & valid[:, :, None])
        scores = similarity.masked_fill(~candidates, -torch.inf)
        own = similarity.diagonal(dim1=1, dim2=2)
        counted = valid & (valid.sum(1, keepdim=True) > 1)
        total = torch.logsumexp(scores.masked_fill(~valid[:, :, None], 0.0), dim=-1)
        loss = torch.where(counted, total - own, 0.0).sum(1)
    rival = scores.detach().masked_fill(positive, -torch.inf).amax(-1)
    drawn = distractors & counted[:, :, None]
    return ContrastiveOutput(
        loss=loss,
        count=counted.sum(),
        correct=(counted & (own.detach() > rival)).sum(),
        equal_distractors=(drawn & equal).sum(),
        num_distractors=drawn.sum(),
    )
