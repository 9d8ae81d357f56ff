"""The transducer (RNN-T) loss: -log P(tokens | frames), summed over all alignments, with its gradient in closed form.

Source: Graves 2012, arXiv 1211.3711, section 2.5. Defined for any U, U = 0 and U > T included, where T >= 1.
Dimension letters: B batch, T frames, U tokens, V vocabulary, J joiner.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from w2vbert_asr.losses.joint import JointInputs, JointTargets, Limits, joint_loss
from w2vbert_asr.losses.lattice import Cells, arc_scores, gradient_of_logits_, occupation


def transducer_loss(
    logits: Tensor, tokens: Tensor, logit_lens: Tensor, token_lens: Tensor, blank_id: int, fastemit: float = 0.0
) -> Tensor:
    """-log P of each utterance: logits (B, T, U + 1, V), tokens (B, U), lengths (B,) -> (B,).

    Log-softmax is in float32 (float64 for float64 logits), the lattice in float64. The gradient is one more tensor of
    the size of the logits, exactly zero at padding. With fastemit that gradient, not the value, is one in which the
    tokens' arcs count 1 + fastemit times (Yu et al. 2021, arXiv 2010.11148). Raises ValueError for shapes or lengths
    that do not fit together, and for an utterance without frames.
    """
    batch, num_frames, width, _ = logits.shape
    lens = lengths(logit_lens, token_lens, tokens, (batch, num_frames, width))
    loss: Tensor = _TransducerLoss.apply(logits, tokens, *lens, blank_id, fastemit)
    return loss


def joint_transducer_loss(
    encoder_out: Tensor,
    decoder_out: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    encoder_out_lens: Tensor,
    token_lens: Tensor,
    blank_id: int,
    fastemit: float = 0.0,
    limits: Limits | None = None,
) -> Tensor:
    """`transducer_loss` of logits = tanh(encoder_out[:, :, None] + decoder_out[:, None]) @ weight.T + bias, in pieces.

    encoder_out (B, T, J), decoder_out (B, U + 1, J), weight (V, J), bias (V,), tokens (B, U), lengths (B,) -> (B,).
    Only valid cells are computed, those of as many utterances at a time as `limits.group_bytes` of probabilities and
    activations hold (of one at least), by default as the device can do with; the lattice of a larger batch never
    exists. Where one utterance alone takes more than `limits.kept_bytes`, not even its own does: logits are then made
    twice, a chunk at a time.

    The gradients are made together with the loss, as if the derivative of the objective by each loss were 1. Backward
    scales them, which is exact when that derivative is the same for all utterances (a sum, a mean); when it is not,
    backward makes them again with the true ones. Products are in bf16 under autocast to bf16 and for bf16 inputs,
    everything else in float32 (float64 for float64 inputs). Raises ValueError as `transducer_loss` does.
    """
    shape = (*encoder_out.shape[:2], decoder_out.shape[1])
    lens = lengths(encoder_out_lens, token_lens, tokens, shape)
    return joint_loss_in_bands(encoder_out, decoder_out, weight, bias, tokens, *lens, blank_id, fastemit, None, limits)


def joint_loss_in_bands(
    encoder_out: Tensor,
    decoder_out: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    frame_lens: list[int],
    token_lens: list[int],
    blank_id: int,
    fastemit: float,
    bands: list[tuple[Tensor, int]] | None,
    limits: Limits | None = None,
) -> Tensor:
    """`joint_transducer_loss` over the alignments inside `bands` (see `Cells.in_bands`), all of them for None."""
    inputs = JointInputs(encoder_out, decoder_out, weight, bias)
    batch, _, joiner_dim = encoder_out.shape
    if decoder_out.shape[0] != batch or not joiner_dim == decoder_out.shape[2] == weight.shape[1]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors())
        raise ValueError(
            f"encoder_out (B, T, J), decoder_out (B, U + 1, J), weight (V, J) do not fit together: {shapes}"
        )
    device = encoder_out.device.type
    product_dtype = torch.promote_types(encoder_out.dtype, weight.dtype)
    if torch.is_autocast_enabled(device) and product_dtype == torch.float32:
        product_dtype = torch.get_autocast_dtype(device)
    limits = limits or Limits.on(device)
    targets = JointTargets(tokens, frame_lens, token_lens, blank_id, product_dtype, limits, fastemit, bands)
    with torch.autocast(device, enabled=False):
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in inputs.tensors()):
            return joint_loss(inputs, targets)
        loss: Tensor = _JointTransducerLoss.apply(*inputs.tensors(), targets)
    return loss


def lengths(
    frame_lens: Tensor, token_lens: Tensor, tokens: Tensor, shape: tuple[int, int, int]
) -> tuple[list[int], list[int]]:
    """The lengths as numbers; ValueError if they, the tokens and the lattice (B, T, U + 1) do not fit together."""
    batch, num_frames, width = shape
    if not batch == len(tokens) == len(frame_lens) == len(token_lens) > 0:
        sizes = f"{batch}, {len(tokens)}, {len(frame_lens)}, {len(token_lens)}"
        raise ValueError(
            f"lattice, tokens and both lengths are of {sizes} utterances; expected the same number, above 0"
        )
    frames, labels = frame_lens.tolist(), token_lens.tolist()
    most = min(width - 1, tokens.shape[1])
    for index, (own_frames, own_labels) in enumerate(zip(frames, labels, strict=True)):
        if not 1 <= own_frames <= num_frames:
            raise ValueError(f"utterance {index} of the batch has {own_frames} frames; expected 1 to T = {num_frames}")
        if not 0 <= own_labels <= most:
            raise ValueError(f"utterance {index} of the batch has {own_labels} tokens; expected 0 to U = {most}")
    return frames, labels


class _TransducerLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        tokens: Tensor,
        frame_lens: list[int],
        token_lens: list[int],
        blank_id: int,
        fastemit: float,
    ) -> Tensor:
        cells = Cells.of(frame_lens, token_lens, logits.device)
        next_tokens = cells.next_tokens(tokens, blank_id)
        own_tokens = torch.split(next_tokens, cells.counts)
        arcs = [arc_scores(_rows(logits, cells, b), part, blank_id)[1:] for b, part in enumerate(own_tokens)]
        blank, label = (torch.cat(column) for column in zip(*arcs, strict=True))
        through = occupation(blank, label, cells, fastemit)
        ctx.cells, ctx.blank_id = cells, blank_id
        ctx.save_for_backward(logits, next_tokens, blank, label, through.blank, through.label)
        return through.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        logits, *columns = ctx.saved_tensors
        cells: Cells = ctx.cells
        gradient = torch.zeros_like(logits)
        parts = zip(*(torch.split(column, cells.counts) for column in columns), strict=True)
        for b, (next_tokens, *scores_and_occupations) in enumerate(parts):
            rows = _rows(logits, cells, b).softmax(1)
            gradient_of_logits_(rows, next_tokens, ctx.blank_id, *scores_and_occupations)
            own = gradient[b, : cells.frame_lens[b], : cells.token_lens[b] + 1]
            own.copy_(rows.mul_(grad_output[b]).view(own.shape))
        return gradient, None, None, None, None, None


def _rows(logits: Tensor, cells: Cells, b: int) -> Tensor:
    """The valid cells of utterance b, (n, V), in float32 or better."""
    rows = logits[b, : cells.frame_lens[b], : cells.token_lens[b] + 1].flatten(0, 1)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


class _JointTransducerLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, encoder_out: Tensor, decoder_out: Tensor, weight: Tensor, bias: Tensor, targets: JointTargets
    ) -> Tensor:
        inputs = JointInputs(encoder_out, decoder_out, weight, bias)
        gradients = inputs.zeros()
        loss = joint_loss(inputs, targets, gradients)
        ctx.targets = targets
        ctx.save_for_backward(*inputs.tensors(), *gradients.tensors())
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        inputs, gradients = JointInputs(*ctx.saved_tensors[:4]), JointInputs(*ctx.saved_tensors[4:])
        if torch.equal(grad_output, grad_output[:1].expand_as(grad_output)):
            scaled = [gradient * grad_output[0] for gradient in gradients.tensors()]
        else:
            again = inputs.zeros()
            with torch.autocast(grad_output.device.type, enabled=False):
                joint_loss(inputs, ctx.targets, again, grad_output)
            scaled = list(again.tensors())
        cast = (gradient.to(tensor.dtype) for gradient, tensor in zip(scaled, inputs.tensors(), strict=True))
        return *cast, None
