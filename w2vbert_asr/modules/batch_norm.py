"""Batch normalisation over valid frames only, the same whatever the padding and the number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from w2vbert_asr.collectives import all_reduce_sum


class MaskedBatchNorm(nn.Module):
    """BatchNorm (Ioffe and Szegedy 2015) whose mean and variance count valid frames only, summed over all ranks."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.momentum = momentum
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor, pad_mask: Tensor | None) -> Tensor:
        """(B, T, D), (B, T) True at padding -> (B, T, D), in float32; zero at padding. No mask: nothing is padding."""
        x = x.float()
        if pad_mask is None:
            pad_mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.training:
            valid = ~pad_mask[:, :, None]
            kept = x.masked_fill(~valid, 0.0)
            sums = torch.cat([kept.sum((0, 1)), kept.square().sum((0, 1)), valid.sum().float()[None]])
            sums = all_reduce_sum(sums)
            count = sums[-1].clamp(min=1.0)
            mean, square = sums[:-1].view(2, -1) / count
            var = (square - mean.square()).clamp(min=0.0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * count / (count - 1.0).clamp(min=1.0), self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        y: Tensor = (x - mean) * (torch.rsqrt(var + self.eps) * self.weight) + self.bias
        return y.masked_fill(pad_mask[:, :, None], 0.0)
