"""Codebook diversity (Baevski et al. 2020, section 3.2, equation 4) and what is logged of the codes.

Dimension letters: N frames, G codebooks, C codes a book.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2vbert_asr.collectives import all_reduce_sum


def perplexity(probs: Tensor) -> Tensor:
    """exp of the entropy over the last dimension: (..., C) -> (...)."""
    return torch.exp(-torch.xlogy(probs, probs).sum(-1))


def mean_code_probs(logits: Tensor) -> Tensor:
    """(N, G, C) noise-free logits of valid frames -> (G, C) mean softmax over the frames of all ranks."""
    probs = torch.softmax(logits.float(), dim=-1)
    count = torch.full((1, 1), float(len(probs)), device=logits.device)
    return all_reduce_sum(probs.sum(0)) / all_reduce_sum(count).clamp(min=1.0)


def diversity_loss(mean_probs: Tensor) -> Tensor:
    """(G C - sum of the books' perplexities) / (G C): 0 when every code is used alike, near 1 at collapse."""
    return 1.0 - perplexity(mean_probs).sum() / mean_probs.numel()
