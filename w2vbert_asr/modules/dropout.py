"""Dropout (Srivastava et al. 2014) that costs little on a CPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 8


class Dropout(nn.Module):
    """nn.Dropout with eight draws from every 64 random bits on a CPU, where torch spends a whole draw on each element.

    There the probability is rounded to a multiple of 1 / 256; the scale belongs to the rounded value. The bits are
    those of numpy's SFC64, which is four times as fast as torch's generator and seeded by it. Other devices use torch's
    own.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in training each element is zero with the probability, else scaled to keep the mean."""
        if not self.training or self.prob == 0.0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.prob)
        dropped = max(round(self.prob * _LEVELS), 1)
        words = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw((x.numel() + 7) // 8)
        levels = torch.from_numpy(words).view(torch.int8)[: x.numel()].view(x.shape)
        # Compared into the dtype of x at once: by way of booleans it would take ten times as long.
        kept = torch.ge(levels, dropped - _LEVELS // 2, out=torch.empty_like(x, requires_grad=False))
        return x * kept.mul_(_LEVELS / (_LEVELS - dropped))
