"""The pruned transducer loss (Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training",
arXiv 2206.13236): an additive lattice, cheap since no cell has a joiner of its own, says where the alignment probably
runs; the exact joiner is computed in a band around that alone.

Dimension letters: B batch, T frames, U tokens, V vocabulary, J joiner, S cells of a frame in the band.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from w2vbert_asr.losses.joint import Limits
from w2vbert_asr.losses.lattice import Cells, Occupation, occupation
from w2vbert_asr.losses.transducer import joint_loss_in_bands, lengths


@dataclass(frozen=True)
class PrunedLoss:
    """additive: -log P by the additive lattice. pruned: by the joiner inside the band; both (B,)."""

    additive: Tensor
    pruned: Tensor


def pruned_transducer_loss(
    encoder_out: Tensor,
    decoder_out: Tensor,
    weight: Tensor,
    bias: Tensor,
    encoder_scores: Tensor,
    decoder_scores: Tensor,
    tokens: Tensor,
    encoder_out_lens: Tensor,
    token_lens: Tensor,
    blank_id: int,
    prune_range: int = 5,
    fastemit: float = 0.0,
    limits: Limits | None = None,
) -> PrunedLoss:
    """`joint_transducer_loss` over the alignments inside a band of `prune_range` cells a frame.

    encoder_out, decoder_out, weight, bias, tokens and lengths are those of `joint_transducer_loss`. encoder_scores
    (B, T, V) and decoder_scores (B, U + 1, V) are the additive lattice's logits: those of cell (t, u) are their sum.
    The band is wider where an utterance has more tokens than fit in otherwise. Its place takes no gradient. Raises
    ValueError as `transducer_loss` does.
    """
    if prune_range < 2:
        raise ValueError(f"prune_range: expected at least 2, for a token to be emitted at all, found {prune_range}")
    frames, labels = lengths(encoder_out_lens, token_lens, tokens, (*encoder_scores.shape[:2], decoder_out.shape[1]))
    additive, through, cells = _additive_loss(
        encoder_scores, decoder_scores, tokens, frames, labels, blank_id, fastemit
    )
    bands = [
        band_starts(blank + label, prune_range)
        for blank, label in zip(cells.split(through.blank), cells.split(through.label), strict=True)
    ]
    pruned = joint_loss_in_bands(
        encoder_out, decoder_out, weight, bias, tokens, frames, labels, blank_id, fastemit, bands, limits
    )
    return PrunedLoss(additive, pruned)


@torch.no_grad()
def band_starts(through: Tensor, prune_range: int) -> tuple[Tensor, int]:
    """Posteriors of an utterance's cells (T, U + 1) -> first position of the band in each frame (T,), and its width S.

    Each frame's window covers as much posterior as it can, within what a path needs: the band begins with no token and
    ends with all, never goes back, and its windows overlap from frame to frame by one cell at least (Kuang et al.
    2022).
    """
    num_frames, width = through.shape
    size = min(max(prune_range, -(-(width - 1 + num_frames) // num_frames)), width)
    sums = torch.nn.functional.pad(through.double().cumsum(1), (1, 0))
    starts = (sums[:, size:] - sums[:, :-size]).argmax(1)
    starts[-1] = width - size
    starts = starts.flip(0).cummin(0).values.flip(0)
    steps = torch.arange(num_frames, device=through.device) * (size - 1)
    starts = torch.minimum(starts, steps)
    starts = (starts - steps).flip(0).cummax(0).values.flip(0) + steps
    return starts, size


def _additive_loss(
    encoder_scores: Tensor,
    decoder_scores: Tensor,
    tokens: Tensor,
    frame_lens: list[int],
    token_lens: list[int],
    blank_id: int,
    fastemit: float,
) -> tuple[Tensor, Occupation, Cells]:
    """-log P (B,) by the additive lattice; its normalizers are one product of exponentials, in float32."""
    device = encoder_scores.device
    cells = Cells.of(frame_lens, token_lens, device)
    with torch.autocast(device.type, enabled=False):
        dtype = torch.promote_types(encoder_scores.dtype, torch.float32)
        by_frame, by_position = encoder_scores.to(dtype), decoder_scores.to(dtype)
        peaks = by_frame.detach().amax(2, keepdim=True), by_position.detach().amax(2, keepdim=True)
        sums = (by_frame - peaks[0]).exp() @ (by_position - peaks[1]).exp().transpose(1, 2)
        log_norm = (sums + torch.finfo(dtype).tiny).log() + peaks[0] + peaks[1].transpose(1, 2)  # (B, T, U + 1)
        place = (cells.utterance, cells.frame, cells.position)
        next_tokens = cells.next_tokens(tokens, blank_id)
        norm = log_norm[place]
        blank = by_frame[..., blank_id][place[:2]] + by_position[..., blank_id][place[::2]] - norm
        label = by_frame[(*place[:2], next_tokens)] + by_position[(*place[::2], next_tokens)] - norm
        through = occupation(blank.detach(), label.detach(), cells, fastemit)
        loss: Tensor = _ByOccupation.apply(blank, label, through)
    return loss, through, cells


class _ByOccupation(torch.autograd.Function):
    """-log P (B,) of arc scores (R,): its derivative by an arc's log probability is minus the arc's occupation."""

    @staticmethod
    def forward(ctx: Any, blank: Tensor, label: Tensor, through: Occupation) -> Tensor:
        ctx.save_for_backward(through.blank, through.label)
        ctx.utterance = through.utterance
        return through.loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        blank, label = ctx.saved_tensors
        scale = -grad_output[ctx.utterance]
        return scale * blank, scale * label, None
