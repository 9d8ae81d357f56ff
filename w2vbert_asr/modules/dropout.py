"""Dropout (Srivastava et al. 2014) that costs little on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """nn.Dropout with four draws from every 64 random bits on a CPU, where torch spends a whole draw on each element.

    There the probability is rounded to 1 / 65536; the scale belongs to the rounded value. Other devices use torch's
    own.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in training each element is zero with the probability, else scaled to keep the mean."""
        if not self.training or self.prob == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.prob)
        dropped = round(self.prob * _LEVELS)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        levels = words.view(torch.int16)[: x.numel()].view(x.shape)
        # Compared into the dtype of x at once: by way of booleans it would take ten times as long.
        kept = torch.ge(levels, dropped - _LEVELS // 2, out=torch.empty_like(x, requires_grad=False))
        return x * kept.mul_(_LEVELS / (_LEVELS - dropped))
