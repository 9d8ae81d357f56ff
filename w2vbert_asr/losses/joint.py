"""Joiner output layer, log-softmax, lattice and gradients in one pass over groups of utterances.

The lattice of logits (B, T, U + 1, V) is what takes the memory of a transducer: here only the valid cells of one group
of utterances exist at a time, as probabilities in the precision of the products, and turn into gradients a chunk at a
time: three matrix products in all. A group that would take more than `Limits.kept_bytes`, which is one utterance, is
not kept at all: its gradients come from logits made again, the fourth product.

Products for gradients are made where gradients are: on most of a lattice the alignment is not, and what such cells
would add is lost in rounding (see `_cells_that_count`).

Dimension letters: B batch, T frames, U tokens, V vocabulary, J joiner, R cells of a group (see lattice.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from w2vbert_asr.losses.lattice import (
    Cells,
    Occupation,
    arc_scores,
    gradient_of_logits_,
    negative_log_likelihood,
    occupation,
)

_NEGLIGIBLE = 2.0**-7  # of the rounding error of 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What of a lattice exists at a time.

    group_bytes: of the probabilities and activations that are kept of a group of more than one utterance; kept_bytes:
    of any group. chunk_elements: logits or activations that are worked on at a time.
    """

    group_bytes: int
    kept_bytes: int
    chunk_elements: int

    @staticmethod
    def on(device: str) -> Limits:
        """On a CPU a chunk stays in the cache. A GPU is kept busy by large chunks and few groups: the two of them cost
        it some ten operations a chunk and two a diagonal of each group, however small these are.
        """
        if device == "cpu":
            return Limits(group_bytes=64 << 20, kept_bytes=256 << 20, chunk_elements=1 << 19)
        return Limits(group_bytes=2 << 30, kept_bytes=2 << 30, chunk_elements=1 << 24)


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
        """Where gradients are summed; contiguous, whatever the inputs are, so that their rows are views."""
        return JointInputs(
            *(torch.zeros(tensor.shape, dtype=self.dtype, device=tensor.device) for tensor in self.tensors())
        )


@dataclass(frozen=True)
class JointTargets:
    """The rest of the problem."""

    tokens: Tensor  # (B, U)
    frame_lens: list[int]
    token_lens: list[int]
    blank_id: int
    product_dtype: torch.dtype
    limits: Limits
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
    row_bytes = targets.product_dtype.itemsize * (inputs.weight.shape[0] + inputs.weight.shape[1])
    lens = zip(targets.frame_lens, targets.token_lens, strict=True)
    sizes = [num_frames * (num_tokens + 1) * row_bytes for num_frames, num_tokens in lens]
    if targets.bands is not None:
        sizes = [len(starts) * size * row_bytes for starts, size in targets.bands]
    losses = []
    for first, end in groups(sizes, targets.limits.group_bytes):
        group, is_kept = slice(first, end), sum(sizes[first:end]) <= targets.limits.kept_bytes
        losses.append(_group_loss(inputs, targets, gradients, scale, group, is_kept))
    return torch.cat(losses)


def groups(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Neighbours whose sizes add up to at most `limit`, as (first, last + 1); at least one each."""
    first, total = 0, 0
    for index, size in enumerate(sizes):
        if index > first and total + size > limit:
            yield first, index
            first, total = index, 0
        total += size
    yield first, len(sizes)


def _group_loss(
    inputs: JointInputs,
    targets: JointTargets,
    gradients: JointInputs | None,
    scale: Tensor | None,
    utterances: slice,
    is_kept: bool,
) -> Tensor:
    group = _Group(inputs, targets, utterances, is_kept and gradients is not None)
    num_rows, chunk = len(group.next_tokens), max(1, targets.limits.chunk_elements // max(group.weight.shape))
    for first in range(0, num_rows, chunk):
        group.score(slice(first, min(first + chunk, num_rows)))
    if gradients is None:
        return negative_log_likelihood(group.blank, group.label, group.cells)
    through = occupation(group.blank, group.label, group.cells, targets.fastemit)
    rows = _cells_that_count(through)
    if scale is not None:
        own_scale = scale[utterances][through.utterance]
        through = replace(through, blank=through.blank * own_scale, label=through.label * own_scale)
    own = replace(
        gradients, encoder_out=gradients.encoder_out[utterances], decoder_out=gradients.decoder_out[utterances]
    )
    for part in torch.split(rows, chunk):
        group.add_gradients(part, through, own)
    return through.loss


class _Group:
    """The joiner over the cells of a group, as many at a time as are asked for.

    hidden (R, J), probs (R, V): in the precision of the products, None where they are not kept.
    """

    def __init__(self, inputs: JointInputs, targets: JointTargets, utterances: slice, is_kept: bool) -> None:
        encoder_out, decoder_out = inputs.encoder_out[utterances], inputs.decoder_out[utterances]
        self.blank_id = targets.blank_id
        self.cells = cells = targets.cells(utterances, encoder_out.device)
        self.next_tokens = cells.next_tokens(targets.tokens[utterances], targets.blank_id)
        self.twice_encoder = encoder_out.to(inputs.dtype).flatten(0, 1) * 2.0
        self.twice_decoder = decoder_out.to(inputs.dtype).flatten(0, 1) * 2.0
        self.frame_row = cells.utterance * encoder_out.shape[1] + cells.frame
        self.token_row = cells.utterance * decoder_out.shape[1] + cells.position
        self.weight, self.bias = inputs.weight.to(targets.product_dtype), inputs.bias.to(inputs.dtype)
        vocab_size, joiner_dim = self.weight.shape
        num_rows = len(self.next_tokens)
        self.hidden = self.weight.new_empty(num_rows, joiner_dim) if is_kept else None
        self.probs = self.weight.new_empty(num_rows, vocab_size) if is_kept else None
        self.blank, self.label = self.bias.new_empty(2, num_rows)

    def score(self, rows: slice) -> None:
        """Fill in the log probabilities of the arcs out of some cells, and what is kept of them."""
        hidden = self._hidden(rows)
        probs, self.blank[rows], self.label[rows] = arc_scores(
            self._logits(hidden), self.next_tokens[rows], self.blank_id
        )
        if self.hidden is not None and self.probs is not None:
            self.hidden[rows], self.probs[rows] = hidden, probs

    def add_gradients(self, rows: Tensor, through: Occupation, gradients: JointInputs) -> None:
        """Add those that come through some cells (n,) to `gradients`, of this group's utterances."""
        if self.hidden is not None and self.probs is not None:
            hidden = self.hidden[rows]
            by_logit = self.probs[rows].to(self.bias.dtype)
        else:
            hidden = self._hidden(rows)
            by_logit = self._logits(hidden).softmax(1)
        scores, occupations = (self.blank[rows], self.label[rows]), (through.blank[rows], through.label[rows])
        gradient_of_logits_(by_logit, self.next_tokens[rows], self.blank_id, *scores, *occupations)
        gradients.bias.add_(by_logit.sum(0))
        by_logit = by_logit.to(self.weight.dtype)
        gradients.weight.add_(by_logit.T @ hidden)
        by_sum = torch.ops.aten.tanh_backward(by_logit @ self.weight, hidden).to(self.bias.dtype)
        gradients.encoder_out.flatten(0, 1).index_add_(0, self.frame_row[rows], by_sum)
        gradients.decoder_out.flatten(0, 1).index_add_(0, self.token_row[rows], by_sum)

    def _hidden(self, rows: slice | Tensor) -> Tensor:
        """(n, J): tanh(x) as 2 sigmoid(2x) - 1, which takes a CPU a tenth of the time."""
        joined = self.twice_encoder.index_select(0, self.frame_row[rows])
        joined += self.twice_decoder.index_select(0, self.token_row[rows])
        return joined.sigmoid_().mul_(2.0).sub_(1.0).to(self.weight.dtype)

    def _logits(self, hidden: Tensor) -> Tensor:
        """(n, J) -> (n, V)"""
        return (hidden @ self.weight.T).to(self.bias.dtype).add_(self.bias)


def _cells_that_count(through: Occupation) -> Tensor:
    """Rows of the cells without which the sum of a frame's gradients, or of a position's, would be another number.

    The alignment passes each frame and each position, so that their occupations add up to at least 1: next to that, a
    cell of less than a hundredth of the rounding error of 1 is nothing.
    """
    occupied = through.blank + through.label
    return (occupied > _NEGLIGIBLE * torch.finfo(occupied.dtype).eps).nonzero()[:, 0]
