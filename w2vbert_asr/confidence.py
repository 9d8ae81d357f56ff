"""How sure a model is of the words that it emitted.

Dimension letters: B batch, T frames, E encoder, U tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from w2vbert_asr.search import Hypothesis, Searchable


@torch.no_grad()
def token_confidences(model: Searchable, encoder_out: Tensor, best: Sequence[Hypothesis]) -> list[list[float]]:
    """encoder_out (B, T, E), a hypothesis of each utterance -> the probability of each of its tokens, in [0, 1].

    It is that of the token among all tokens, given the ones before it, at the frame that emitted it. Blank is left out:
    how likely it was says when a token comes, not which one.
    """
    lens = [len(hypothesis.tokens) for hypothesis in best]
    if not any(lens):
        return [[] for _ in best]
    device = encoder_out.device
    tokens, frames = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(one, dtype=torch.long) for one in several], batch_first=True)
        for several in ([one.tokens for one in best], [one.times for one in best])
    )  # (B, U) each
    tokens, frames = tokens.to(device), frames.to(device)
    decoder_out = model.decoder(tokens, torch.tensor(lens, device=device))[:, : max(lens)]
    encoder_rows = encoder_out.gather(1, frames[:, :, None].expand(-1, -1, encoder_out.shape[2]))
    logits = model.joiner(model.joiner.project_encoder(encoder_rows), model.joiner.project_decoder(decoder_out))
    logits = logits.double()
    logits[..., model.blank_id] = -torch.inf
    of_tokens = logits.log_softmax(-1).gather(2, tokens[:, :, None])[..., 0].exp()  # (B, U)
    return [own[:count] for own, count in zip(of_tokens.tolist(), lens, strict=True)]


def word_confidence(tokens: Sequence[float]) -> float:
    """That of a word with tokens of such confidences: their product."""
    return math.prod(tokens)
