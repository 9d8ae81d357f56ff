"""CTC (Graves et al. 2006, "Connectionist temporal classification"), with the same bits each time on a GPU as well.

torch's gradient adds up the positions of a token in the order in which the GPU comes to them. Its forward sums have one
order, and the backward sums are the forward sums of the utterance turned around.

Dimension letters: B batch, T frames, U tokens, V vocabulary, S = 2 U + 1 states (blank, token, blank, ...).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def ctc_loss(log_probs: Tensor, tokens: Tensor, frame_lens: Tensor, token_lens: Tensor, blank_id: int) -> Tensor:
    """-log P of each utterance, 0 where there are too few frames for the tokens.

    log_probs (B, T, V) in float32, tokens (B, U), lengths (B,) -> (B,).
    """
    if log_probs.device.type != "cpu":
        return in_fixed_order(log_probs, tokens, frame_lens, token_lens, blank_id)
    return F.ctc_loss(
        log_probs.transpose(0, 1), tokens, frame_lens, token_lens, blank_id, reduction="none", zero_infinity=True
    )


def in_fixed_order(log_probs: Tensor, tokens: Tensor, frame_lens: Tensor, token_lens: Tensor, blank_id: int) -> Tensor:
    """`ctc_loss` whose sums have one order on every device."""
    loss: Tensor = _CtcLoss.apply(log_probs, tokens, frame_lens, token_lens, blank_id)
    return loss


class _CtcLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_probs: Tensor, tokens: Tensor, frame_lens: Tensor, token_lens: Tensor, blank_id: int
    ) -> Tensor:
        lens = frame_lens.tolist(), token_lens.tolist()
        loss, alpha = _sums(log_probs, tokens, lens, blank_id)
        back_in_time = _turned(frame_lens, log_probs.shape[1])
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        turned = tokens[rows, _turned(token_lens, tokens.shape[1])] if tokens.shape[1] else tokens
        beta = _sums(log_probs[rows, back_in_time], turned, lens, blank_id)[1]
        states = _turned(2 * token_lens + 1, alpha.shape[2])
        beta = beta[rows[..., None], back_in_time[..., None], states[:, None]]

        symbols = torch.full((len(tokens), alpha.shape[2]), blank_id, device=tokens.device)
        symbols[:, 1::2] = tokens
        symbols = symbols[:, None].expand(alpha.shape)
        exists = torch.arange(alpha.shape[1], device=tokens.device)[:, None] < frame_lens[:, None, None]
        exists = exists & (torch.arange(alpha.shape[2], device=tokens.device) <= 2 * token_lens[:, None, None])
        exists = exists & loss.isfinite()[:, None, None]
        # Both sums have the frame's own score.
        occupation = (alpha + beta - log_probs.gather(2, symbols) + loss[:, None, None]).exp()
        occupation = occupation.masked_fill(~exists, 0.0)
        ctx.save_for_backward(torch.zeros_like(log_probs).scatter_add_(2, symbols, occupation))
        return loss.masked_fill(loss.isinf(), 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (through,) = ctx.saved_tensors
        return through * -grad_output[:, None, None], None, None, None, None


def _sums(log_probs: Tensor, tokens: Tensor, lens: tuple[list[int], list[int]], blank_id: int) -> tuple[Tensor, Tensor]:
    """-log P (B,), and (B, T, S) log of the sum of all ways to a state, whose last frame is that one."""
    loss, sums = torch._ctc_loss(log_probs.transpose(0, 1), tokens, *lens, blank_id, False)
    return loss, sums


def _turned(lens: Tensor, size: int) -> Tensor:
    """(B, size): index of what comes at each place when an utterance is read from its end; 0 beyond it."""
    return (lens[:, None] - 1 - torch.arange(size, device=lens.device)).clamp(min=0)
