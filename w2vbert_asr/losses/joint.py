"""Joiner output layer, log-softmax, lattice and gradients in one pass over groups of utterances.

The lattice of logits (B, T, U + 1, V) is what takes the memory of a transducer: here only the valid cells of one group
of utterances exist at a time, and every cell's logits turn into its gradient in place. Three matrix products in all.

Dimension letters: B batch, T frames, U tokens, V vocabulary, J joiner, R cells of a group (see lattice.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from w2vbert_asr.losses.lattice import Cells, arc_scores, gradient_of_logits_, negative_log_likelihood, occupation

CHUNK_ELEMENTS = 1 << 20  # of logits worked on at a time, so that they stay in the cache


@dataclass(frozen=True)
class JointInputs:
    """What takes a gradient, in this order."""

    encoder_out: Tensor  # (B, T, J)
    decoder_out: Tensor  # (B, U + 1, J)
    weight: Tensor  # (V, J)
    bias: Tensor  # (V,)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.encoder_out, self.decoder_out, self.weight, self.bias

    @property
    def dtype(self) -> torch.dtype:
        """Of all sums, and of everything but the products."""
        dtype = torch.promote_types(self.encoder_out.dtype, self.weight.dtype)
        return torch.promote_types(dtype, torch.float32)

    def zeros(self) -> JointInputs:
        """Where gradients are summed."""
        return JointInputs(*(torch.zeros_like(tensor, dtype=self.dtype) for tensor in self.tensors()))


@dataclass(frozen=True)
class JointTargets:
    """The rest of the problem. group_bytes bounds logits and activations of a group of more than one utterance."""

    tokens: Tensor  # (B, U)
    frame_lens: list[int]
    token_lens: list[int]
    blank_id: int
    product_dtype: torch.dtype
    group_bytes: int
    fastemit: float
    bands: list[tuple[Tensor, int]] | None = None  # cells beyond them are left out

    def cells(self, group: slice, device: torch.device) -> Cells:
        """Those of a group of utterances."""
        frame_lens, token_lens = self.frame_lens[group], self.token_lens[group]
        if self.bands is None:
            return Cells.of(frame_lens, token_lens, device)
        return Cells.in_bands(frame_lens, token_lens, self.bands[group], device)


def joint_loss(
    inputs: JointInputs, targets: JointTargets, gradients: JointInputs | None = None, scale: Tensor | None = None
) -> Tensor:
    """Losses (B,). The gradients of their sum, weighted by scale (B,) if given, are added to `gradients` if given."""
    row_bytes = inputs.dtype.itemsize * (inputs.weight.shape[0] + inputs.weight.shape[1])
    lens = zip(targets.frame_lens, targets.token_lens, strict=True)
    sizes = [num_frames * (num_tokens + 1) * row_bytes for num_frames, num_tokens in lens]
    if targets.bands is not None:
        sizes = [len(starts) * size * row_bytes for starts, size in targets.bands]
    groups = (slice(*bounds) for bounds in _groups(sizes, targets.group_bytes))
    return torch.cat([_group_loss(inputs, targets, gradients, scale, group) for group in groups])


def _groups(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Neighbours whose sizes add up to at most `limit`, as (first, last + 1); at least one each."""
    first, total = 0, 0
    for index, size in enumerate(sizes):
        if index > first and total + size > limit:
            yield first, index
            first, total = index, 0
        total += size
    yield first, len(sizes)


def _group_loss(
    inputs: JointInputs, targets: JointTargets, gradients: JointInputs | None, scale: Tensor | None, group: slice
) -> Tensor:
    weight = inputs.weight.to(targets.product_dtype)
    cells = targets.cells(group, weight.device)
    next_tokens = cells.next_tokens(targets.tokens[group], targets.blank_id)
    encoder_out, decoder_out = inputs.encoder_out[group], inputs.decoder_out[group]
    frame_row = cells.utterance * encoder_out.shape[1] + cells.frame
    token_row = cells.utterance * decoder_out.shape[1] + cells.position
    encoder_rows = encoder_out.to(inputs.dtype).flatten(0, 1)
    decoder_rows = decoder_out.to(inputs.dtype).flatten(0, 1)

    num_rows, (vocab_size, joiner_dim) = len(next_tokens), weight.shape
    hidden = weight.new_empty(num_rows, joiner_dim)
    logits = weight.new_empty(num_rows, vocab_size, dtype=inputs.dtype)
    log_norm, blank, label = logits.new_empty(3, num_rows)
    chunk = max(1, CHUNK_ELEMENTS // vocab_size)
    chunks = [slice(first, min(first + chunk, num_rows)) for first in range(0, num_rows, chunk)]
    for rows in chunks:
        joined = encoder_rows.index_select(0, frame_row[rows]).add_(decoder_rows.index_select(0, token_row[rows]))
        hidden[rows] = joined.tanh_()
        logits[rows] = hidden[rows] @ weight.T
        logits[rows] += inputs.bias
        log_norm[rows], blank[rows], label[rows] = arc_scores(logits[rows], next_tokens[rows], targets.blank_id)
    if gradients is None:
        return negative_log_likelihood(blank, label, cells)

    through = occupation(blank, label, cells, targets.fastemit)
    for rows in chunks:
        gradient_of_logits_(
            logits[rows], next_tokens[rows], targets.blank_id, log_norm[rows], through.blank[rows], through.label[rows]
        )
        if scale is not None:
            logits[rows] *= scale[group][cells.utterance[rows], None]
        gradient = logits[rows].to(weight.dtype)
        gradients.weight.add_(gradient.T @ hidden[rows])
        gradients.bias.add_(logits[rows].sum(0))
        hidden[rows] = torch.ops.aten.tanh_backward(gradient @ weight, hidden[rows])  # from here on, its gradient
    if targets.bands is None:
        _sum_rows(hidden, cells, gradients.encoder_out[group], gradients.decoder_out[group])
    else:
        rows_of_gradient = hidden.to(inputs.dtype)
        gradients.encoder_out[group].flatten(0, 1).index_add_(0, frame_row, rows_of_gradient)
        gradients.decoder_out[group].flatten(0, 1).index_add_(0, token_row, rows_of_gradient)
    return through.loss


def _sum_rows(rows: Tensor, cells: Cells, by_frame: Tensor, by_position: Tensor) -> None:
    """Add the rows (R, J) up: over positions to by_frame (B, T, J), over frames to by_position (B, U + 1, J)."""
    for lattice, own_frames, own_positions in zip(cells.split(rows), by_frame, by_position, strict=True):
        own_frames[: lattice.shape[0]] += lattice.sum(1, dtype=by_frame.dtype)
        own_positions[: lattice.shape[1]] += lattice.sum(0, dtype=by_position.dtype)
