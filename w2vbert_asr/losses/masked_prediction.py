"""Masked prediction: the token ids of masked frames from the prediction stack (Chung et al. 2021).

Dimension letters: N masked frames, G codebooks, C codes a book.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_prediction_loss(logits: Tensor, choice: Tensor) -> Tensor:
    """The cross entropy of each frame, -sum_c choice log softmax(logits), averaged over the books: (N,).

    logits, choice (N, G, C). `choice` is one-hot; detach it for the paper's loss, or hand over the straight-through
    choice to let the gradient reach the quantizer. Float32 whatever the autocast.
    """
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    return -(choice * log_probs).sum((1, 2)) / logits.shape[1]


def num_correct(logits: Tensor, ids: Tensor) -> Tensor:
    """How many of the (N, G) ids are the arg-max of the logits (N, G, C), as a share of the books."""
    return (logits.argmax(-1) == ids).sum() / logits.shape[1]
