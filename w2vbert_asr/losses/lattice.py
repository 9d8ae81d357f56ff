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

from w2vbert_asr.batch import to_device


@dataclass(frozen=True)
class Cells:
    """The valid cells of B utterances as rows: utterance after utterance, frame after frame, U_b + 1 cells a frame.

    In a band, S_b cells a frame, from another position in each.
    """

    counts: list[int]  # (B,) rows of each utterance
    longest: int  # N, of the utterance with most frames and tokens together
    most_tokens: int
    frame_lens: Tensor  # (B,)
    token_lens: Tensor  # (B,)
    utterance: Tensor  # (R,)
    frame: Tensor  # (R,)
    position: Tensor  # (R,) tokens emitted so far

    @staticmethod
    def of(frame_lens: Sequence[int], token_lens: Sequence[int], device: torch.device) -> Cells:
        counts = [frames * (tokens + 1) for frames, tokens in zip(frame_lens, token_lens, strict=True)]
        lens = to_device(torch.tensor([[*frame_lens], [*token_lens], counts]), device)
        utterance = torch.repeat_interleave(lens[2], output_size=sum(counts))
        row = torch.arange(len(utterance), device=device) - (lens[2].cumsum(0) - lens[2])[utterance]
        width = lens[1, utterance] + 1
        sizes = _sizes(frame_lens, token_lens)
        return Cells(counts, *sizes, lens[0], lens[1], utterance, row // width, row % width)

    @staticmethod
    def in_bands(
        frame_lens: Sequence[int], token_lens: Sequence[int], bands: Sequence[tuple[Tensor, int]], device: torch.device
    ) -> Cells:
        """bands: of each utterance the first position in each frame (T_b,), and S_b."""
        assert [len(start) for start, _ in bands] == list(frame_lens)
        counts = [len(start) * size for start, size in bands]
        lens = to_device(torch.tensor([[*frame_lens], [*token_lens], counts]), device)
        utterance = torch.repeat_interleave(lens[2], output_size=sum(counts))
        frame = torch.cat([torch.arange(len(start), device=device).repeat_interleave(size) for start, size in bands])
        position = torch.cat([(start[:, None] + torch.arange(size, device=device)).flatten() for start, size in bands])
        return Cells(counts, *_sizes(frame_lens, token_lens), lens[0], lens[1], utterance, frame, position)

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


def _sizes(frame_lens: Sequence[int], token_lens: Sequence[int]) -> tuple[int, int]:
    """Cells.longest and Cells.most_tokens."""
    return max(map(sum, zip(frame_lens, token_lens, strict=True))), max(token_lens)


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
    sums = _sums(_skewed(blank, label, cells), _start(cells, torch.zeros_like(cells.token_lens)))
    return -_at_end(sums, cells).to(blank.dtype)


def occupation(blank: Tensor, label: Tensor, cells: Cells, fastemit: float = 0.0) -> Occupation:
    """Log probabilities (R,) of the arcs out of each cell -> the arcs' posteriors, given that the tokens are emitted.

    occupation(arc) = exp(alpha(source) + log p(arc) + beta(target) - log P) = - d loss / d log p(arc), Graves 2012,
    equation 20. Those of labels are multiplied by 1 + fastemit (Yu et al. 2021, "FastEmit", arXiv 2010.11148).
    """
    dtype, arcs, place = blank.dtype, _skewed(blank, label, cells), _place(cells)
    batch = arcs.shape[2]
    ends = cells.most_tokens + 1 - cells.token_lens
    starts = torch.cat([_start(cells, torch.zeros_like(ends)), _start(cells, ends)])
    both = _sums(torch.cat([arcs, _turned(arcs)], 2), starts)
    alpha, beta = both[:, :batch], both[:, batch:, 1:].flip(0, 2)
    log_likelihood = _at_end(alpha, cells)
    through = _ways(alpha) + arcs
    through.add_(beta[1:, None]).sub_(log_likelihood[:, None]).exp_()
    by_blank, by_label = (_of_cells(through, place, cells, to).to(dtype) for to in (_BLANK, _LABEL))
    by_label = by_label.mul_(1.0 + fastemit).masked_fill_(cells.is_last, 0.0)
    return Occupation(-log_likelihood.to(dtype), by_blank, by_label, cells.utterance)


# Everything below is skewed: a diagonal n = t + u is a row and depends on its neighbour only. Arcs stand where they
# lead: [n, 0, b, u] is the token's arc out of cell (n - u + 1, u - 1) of utterance b, [n, 1, b, u] the blank out of
# (n - u, u), and both lead to diagonal n + 1, position u. An utterance that is through waits at its end, by blanks of
# probability 1, for the longest one. One position more than the longest utterance has takes what leads nowhere. Sums
# are (N + 1, B, 1 + U + 2); column 0 is impossible: there the token's arc to position 0 would come from. A step takes
# two operations for both directions, since on a GPU, and for short utterances on a CPU, their number is what it costs.
# In float64: a log P of -1000 in float32 blurs the occupations by 1e-3, and next to the logits these sums cost nothing.

_LABEL, _BLANK = 0, 1


def _place(cells: Cells) -> Tensor:
    """(R,) where the blank out of each cell stands in a flat array of arcs; its token's stands _to_label(cells) on."""
    batch, width = len(cells.counts), cells.most_tokens + 2
    diagonal = cells.frame + cells.position
    return ((2 * diagonal + _BLANK) * batch + cells.utterance) * width + cells.position


def _to_label(cells: Cells) -> int:
    return 1 - len(cells.counts) * (cells.most_tokens + 2)


def _of_cells(arcs: Tensor, place: Tensor, cells: Cells, which: int) -> Tensor:
    """(R,) of the arcs (N, 2, B, U + 2) those out of each cell."""
    return arcs.flatten()[place if which == _BLANK else place + _to_label(cells)]


def _skewed(blank: Tensor, label: Tensor, cells: Cells) -> Tensor:
    """(R,), (R,) -> (N, 2, B, U + 2) in float64, impossible where there is no arc."""
    place = _place(cells)
    shape = (cells.longest, 2, len(cells.counts), cells.most_tokens + 2)
    arcs = torch.full(shape, -torch.inf, dtype=torch.float64, device=blank.device)
    diagonal = torch.arange(shape[0], device=blank.device)[:, None]
    waits = torch.zeros(shape[0], shape[2], dtype=torch.float64, device=blank.device)
    waits.masked_fill_(diagonal < cells.frame_lens + cells.token_lens, -torch.inf)
    arcs[:, _BLANK].scatter_(2, cells.token_lens.expand(waits.shape)[..., None], waits[..., None])
    arcs.view(-1)[place] = blank.double()
    arcs.view(-1)[place + _to_label(cells)] = label.double().masked_fill(cells.is_last, -torch.inf)
    return arcs


def _turned(arcs: Tensor) -> Tensor:
    """The same arcs of the lattice turned around, in which an utterance begins where it ended."""
    back = arcs.flip(0, 3)
    # An arc of a token leads to where it came from; no arc leads to position 0, so that nothing is carried around.
    back[:, _LABEL] = back[:, _LABEL].roll(1, 2)
    return back


def _start(cells: Cells, positions: Tensor) -> Tensor:
    """(B,) -> (B, U + 2): 0 at the position where an utterance begins."""
    shape = len(cells.counts), cells.most_tokens + 2
    start = torch.full(shape, -torch.inf, dtype=torch.float64, device=positions.device)
    return start.scatter_(1, positions[:, None], 0.0)


def _sums(arcs: Tensor, start: Tensor) -> Tensor:
    """(N, 2, B, U + 2), (B, U + 2) -> (N + 1, B, 1 + U + 2): log probability of all ways from the start to a place."""
    sums = arcs.new_full((len(arcs) + 1, arcs.shape[2], 1 + arcs.shape[3]), -torch.inf)
    sums[0, :, 1:] = start
    for way, arc, to in zip(_ways(sums).unbind(), arcs.unbind(), sums[1:, :, 1:].unbind(), strict=True):
        by_label, by_blank = (way + arc).unbind()
        torch.logaddexp(by_label, by_blank, out=to)
    return sums


def _ways(sums: Tensor) -> Tensor:
    """(N + 1, B, 1 + U + 2) -> a view (N, 2, B, U + 2): the sums that the arcs to each place come from."""
    shape, stride = sums[1:].shape, sums.stride()
    return sums.as_strided((shape[0], 2, shape[1], shape[2] - 1), (stride[0], 1, stride[1], 1))


def _at_end(sums: Tensor, cells: Cells) -> Tensor:
    return sums[-1, :, 1:].gather(1, cells.token_lens[:, None])[:, 0]
