"""How sure a model is of the words that it emitted.

Dimension letters: B batch, T frames, E encoder, U tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from w2vbert_asr.scoring.alignment import align
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


def word_posteriors(words: Sequence[Sequence[str]], scores: Sequence[float]) -> list[float]:
    """Words and scores (natural log) of each hypothesis -> of each of the first one's words, the share of probability
    that the hypotheses have in which it stands, too.
    """
    first, highest = words[0], max(scores)
    shares = [math.exp(score - highest) for score in scores]
    found = [0.0] * len(first)
    for share, steps in zip(shares, align([first] * len(words), words), strict=True):
        for place, step in enumerate(step for step in steps if step != "I"):
            found[place] += share if step == "C" else 0.0
    return [min(one / math.fsum(shares), 1.0) for one in found]


def word_confidence(tokens: Sequence[float], posterior: float) -> float:
    """That of a word: the geometric mean of its posterior and of the product of its tokens' confidences.

    The first sees what the search weighed against each other, the second what it never kept; in what they miss they
    differ, so both together tell right from wrong words better than either.
    """
    return math.sqrt(posterior * math.prod(tokens))
