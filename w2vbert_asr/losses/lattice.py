"""The alignment lattice of the transducer: forward and backward sums over all paths, along anti-diagonals.

From cell (t, u), frame t with u tokens emitted, blank goes to (t + 1, u) and the next token to (t, u + 1); a path ends
with the blank out of (T - 1, U). Source: Graves 2012, arXiv 1211.3711, sections 2.4 and 2.5, with t counted from 0.

Dimension letters: B utterances, T frames, U tokens, R cells of all utterances together, N diagonals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """The valid cells of B utterances as rows: utterance after utterance, frame after frame, U_b + 1 cells a frame.

    In a band, S_b cells a frame, from another position in each.
    """

    counts: list[int]  # (B,) rows of each utterance
    frame_lens: Tensor  # (B,)
    token_lens: Tensor  # (B,)
    utterance: Tensor  # (R,)
    frame: Tensor  # (R,)
    position: Tensor  # (R,) tokens emitted so far

    @staticmethod
    def of(frame_lens: Sequence[int], token_lens: Sequence[int], device: torch.device) -> Cells:
        frames, tokens = torch.tensor(frame_lens), torch.tensor(token_lens)
        ends = (frames * (tokens + 1)).cumsum(0)
        starts = ends - frames * (tokens + 1)
        utterance = torch.repeat_interleave(torch.arange(len(frame_lens)), ends - starts)
        row = torch.arange(len(utterance)) - starts[utterance]
        width = tokens[utterance] + 1
        columns = [column.to(device) for column in (frames, tokens, utterance, row // width, row % width)]
        return Cells((ends - starts).tolist(), *columns)

    @staticmethod
    def in_bands(
        frame_lens: Sequence[int], token_lens: Sequence[int], bands: Sequence[tuple[Tensor, int]], device: torch.device
    ) -> Cells:
        """bands: of each utterance the first position in each frame (T_b,), and S_b."""
        starts = [start for start, _ in bands]
        sizes = [len(start) * size for start, size in bands]
        utterance = torch.repeat_interleave(torch.arange(len(bands)), torch.tensor(sizes))
        frame = torch.cat([torch.arange(len(start)).repeat_interleave(size) for start, size in bands])
        position = torch.cat([(start.cpu()[:, None] + torch.arange(size)).flatten() for start, size in bands])
        columns = (torch.tensor(frame_lens), torch.tensor(token_lens), utterance, frame, position)
        assert [len(start) for start in starts] == list(frame_lens)
        return Cells(sizes, *(column.to(device) for column in columns))

    @property
    def is_last(self) -> Tensor:
        """(R,) True where all tokens are emitted and only blank is left."""
        return self.position == self.token_lens[self.utterance]

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """(R, ...) -> views (T_b, U_b + 1, ...), an utterance each."""
        shapes = zip(self.frame_lens.tolist(), (self.token_lens + 1).tolist(), strict=True)
        parts = torch.split(rows, self.counts)
        return tuple(part.view(*shape, *rows.shape[1:]) for part, shape in zip(parts, shapes, strict=True))

    def next_tokens(self, tokens: Tensor, blank_id: int) -> Tensor:
        """tokens (B, U) -> (R,) the token that may come next in each cell; blank_id where there is none left."""
        padded = torch.nn.functional.pad(tokens, (0, 1), value=blank_id)
        return padded[self.utterance, self.position].masked_fill(self.is_last, blank_id)


@dataclass(frozen=True)
class Occupation:
    """How probable it is, given the tokens, that the alignment takes an arc; and -log P(tokens)."""

    loss: Tensor  # (B,)
    blank: Tensor  # (R,) of the blank arc out of each cell
    label: Tensor  # (R,) of the token arc; 0 where `is_last`
    utterance: Tensor  # (R,) of each cell


def arc_scores(logits: Tensor, next_tokens: Tensor, blank_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, V), next tokens (R,) -> probabilities (R, V), log P(blank) and log P(next token), each (R,)."""
    probs = logits.softmax(1)
    log_norm = logits.amax(1) - probs.amax(1).log()  # the largest is at least 1 / V: its logarithm is exact
    label = logits.gather(1, next_tokens[:, None])[:, 0]
    return probs, logits[:, blank_id] - log_norm, label - log_norm


def gradient_of_logits_(
    probs: Tensor,
    next_tokens: Tensor,
    blank_id: int,
    blank: Tensor,
    label: Tensor,
    by_blank: Tensor,
    by_label: Tensor,
) -> None:
    """Turn softmax(logits) (R, V) into d loss / d logits, in place, given their arcs' log probabilities, occupations.

    d loss / d logit(v) = (sum of both occupations) softmax(v) - (occupation of the arc that v takes). Where an arc
    takes v that is a difference of near numbers, once the model is sure: there the probability is that of `blank` and
    `label` (R,), so that `probs` may have been rounded.
    """
    both = by_blank + by_label
    probs.mul_(both[:, None])
    probs.scatter_(1, next_tokens[:, None], (label.exp() * both - by_label)[:, None])
    probs[:, blank_id] = blank.exp() * both - by_blank - by_label * (next_tokens == blank_id)


def negative_log_likelihood(blank: Tensor, label: Tensor, cells: Cells) -> Tensor:
    """Log probabilities (R,) of the arcs out of each cell -> -log P(tokens) (B,)."""
    skewed = _skewed(blank, label, cells)
    return -_at_end(_forward(*skewed), cells).to(blank.dtype)


def occupation(blank: Tensor, label: Tensor, cells: Cells, fastemit: float = 0.0) -> Occupation:
    """Log probabilities (R,) of the arcs out of each cell -> the arcs' posteriors, given that the tokens are emitted.

    occupation(arc) = exp(alpha(source) + log p(arc) + beta(target) - log P) = - d loss / d log p(arc), Graves 2012,
    equation 20. Those of labels are multiplied by 1 + fastemit (Yu et al. 2021, "FastEmit", arXiv 2010.11148).
    """
    place, dtype = _place(cells), blank.dtype
    blank, label = _skewed(blank, label, cells)
    alpha, beta = _forward(blank, label), _backward(blank, label, cells)
    log_likelihood = _at_end(alpha, cells)
    through_blank = (alpha[:-1] + blank + beta[1:] - log_likelihood[:, None]).exp_()
    through_label = torch.zeros_like(label)
    through_label[..., :-1] = (alpha[:-1, :, :-1] + label[..., :-1] + beta[1:, :, 1:] - log_likelihood[:, None]).exp_()
    through_label *= 1.0 + fastemit
    by_blank, by_label = (through.flatten()[place].to(dtype) for through in (through_blank, through_label))
    return Occupation(-log_likelihood.to(dtype), by_blank, by_label, cells.utterance)


# Everything below is skewed: [n, b, u] holds cell (n - u, u) of utterance b, so that a diagonal is a row and depends on
# its neighbour only. An utterance that is through waits at its end, by blanks of probability 1, for the longest one.
# In float64: a log P of -1000 in float32 blurs the occupations by 1e-3, and next to the logits these sums cost nothing.


def _skewed_shape(cells: Cells) -> tuple[int, int, int]:
    longest = int((cells.frame_lens + cells.token_lens).max())
    return longest, len(cells.frame_lens), int(cells.token_lens.max()) + 1


def _place(cells: Cells) -> Tensor:
    """(R,) where each cell lies in a flat skewed array."""
    _, batch, width = _skewed_shape(cells)
    return ((cells.frame + cells.position) * batch + cells.utterance) * width + cells.position


def _skewed(blank: Tensor, label: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """(R,), (R,) -> (N, B, U + 1) each, in float64, impossible where there is no cell."""
    blank, label = blank.double(), label.double()
    shape, place = _skewed_shape(cells), _place(cells)
    diagonal = torch.arange(shape[0], device=blank.device)[:, None]
    waits = torch.zeros(shape[:2], dtype=blank.dtype, device=blank.device)
    waits.masked_fill_(diagonal < cells.frame_lens + cells.token_lens, -torch.inf)
    blanks = blank.new_full(shape, -torch.inf)
    blanks.scatter_(2, cells.token_lens.expand(shape[:2])[..., None], waits[..., None])
    blanks.view(-1)[place] = blank
    labels = label.new_full(shape, -torch.inf)
    labels.view(-1)[place] = label.masked_fill(cells.is_last, -torch.inf)
    return blanks, labels


def _forward(blank: Tensor, label: Tensor) -> Tensor:
    """(N + 1, B, U + 1) alpha: log probability of all ways from the start to a cell."""
    alpha = blank.new_full((len(blank) + 1, *blank.shape[1:]), -torch.inf)
    alpha[0, :, 0] = 0.0
    for n in range(len(blank)):
        torch.add(alpha[n], blank[n], out=alpha[n + 1])
        by_label = alpha[n, :, :-1] + label[n, :, :-1]
        torch.logaddexp(alpha[n + 1, :, 1:], by_label, out=alpha[n + 1, :, 1:])
    return alpha


def _backward(blank: Tensor, label: Tensor, cells: Cells) -> Tensor:
    """(N + 1, B, U + 1) beta: log probability of all ways from a cell to the end."""
    beta = blank.new_full((len(blank) + 1, *blank.shape[1:]), -torch.inf)
    beta[-1].scatter_(1, cells.token_lens[:, None], 0.0)
    for n in reversed(range(len(blank))):
        torch.add(beta[n + 1], blank[n], out=beta[n])
        by_label = beta[n + 1, :, 1:] + label[n, :, :-1]
        torch.logaddexp(beta[n, :, :-1], by_label, out=beta[n, :, :-1])
    return beta


def _at_end(alpha: Tensor, cells: Cells) -> Tensor:
    return alpha[-1].gather(1, cells.token_lens[:, None])[:, 0]
