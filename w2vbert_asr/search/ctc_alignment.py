"""Where tokens are in an utterance, by CTC: the frames at which its most probable path enters each of them.

A transducer whose encoder sees the whole utterance may emit a token long before its sound; CTC, which gives a frame one
symbol at most, cannot crowd them together.

Source: Graves et al. 2006 ("Connectionist temporal classification"), section 4.1; Viterbi in place of its sums.
Dimension letters: B batch, T frames, V vocabulary, U tokens, S = 2 U + 1 states: blanks and tokens in turns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def ctc_alignment(
    log_probs: Tensor, lens: Tensor, tokens: Sequence[Sequence[int]], blank_id: int
) -> list[tuple[int, ...] | None]:
    """log_probs (B, T, V), lens (B,), token ids of each utterance -> the first frame of each of its tokens.

    None where no path exists: CTC needs a frame for every token, and one more between two that are equal.
    """
    device, batch = log_probs.device, len(log_probs)
    lens, rows = lens.to(device), torch.arange(batch, device=device)
    counts = torch.tensor([len(own) for own in tokens], device=device)
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(own, dtype=torch.long) for own in tokens], batch_first=True, padding_value=blank_id
    ).to(device)
    states = padded.new_full((batch, 2 * padded.shape[1] + 1), blank_id)
    states[:, 1::2] = padded
    may_skip = torch.zeros_like(states, dtype=torch.bool)  # the blank before it
    may_skip[:, 3::2] = padded[:, 1:] != padded[:, :-1]
    emitted = log_probs.gather(2, states[:, None].expand(-1, log_probs.shape[1], -1))  # (B, T, S)

    score = emitted[:, 0].clone()
    score[:, 2:] = -torch.inf
    moves = []
    for t in range(1, log_probs.shape[1]):
        from_blank = F.pad(score, (1, 0), value=-torch.inf)[:, :-1]
        from_token = F.pad(score, (2, 0), value=-torch.inf)[:, :-2].masked_fill(~may_skip, -torch.inf)
        best, move = torch.stack([score, from_blank, from_token]).max(0)
        going = (t < lens)[:, None]
        score = torch.where(going, best + emitted[:, t], score)
        moves.append(move.masked_fill(~going, 0).to(torch.int8))

    at_blank, at_token = 2 * counts, (2 * counts - 1).clamp(min=0)
    state = torch.where(score[rows, at_blank] >= score[rows, at_token], at_blank, at_token)
    exists = score[rows, state] > -torch.inf
    frames = torch.zeros_like(padded)  # a token that the path begins with has frame 0
    for t in range(log_probs.shape[1] - 1, 0, -1):
        move = moves[t - 1][rows, state].long()
        enters = ((move > 0) & (state % 2 == 1)).nonzero()[:, 0]
        frames[enters, state[enters] // 2] = t
        state = state - move
    return [
        tuple(own[: len(some)]) if found else None
        for own, some, found in zip(frames.tolist(), tokens, exists.tolist(), strict=True)
    ]
