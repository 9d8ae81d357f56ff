"""The convolution module of a conformer block (Gulati et al. 2020, section 2.2).

Dimension letters: B batch, T frames, D model.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.modules.batch_norm import MaskedBatchNorm
from w2vbert_asr.modules.depthwise import depthwise_conv
from w2vbert_asr.modules.dropout import Dropout


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise with GLU, depthwise over time, normalisation, Swish, pointwise, dropout."""

    def __init__(self, model_dim: int, kernel_size: int, norm: Literal["layer", "batch"], dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model_dim)
        self.gated = nn.Linear(model_dim, 2 * model_dim)
        self.depthwise = nn.Conv1d(model_dim, model_dim, kernel_size, padding=kernel_size // 2, groups=model_dim)
        self.inner_norm = nn.LayerNorm(model_dim) if norm == "layer" else MaskedBatchNorm(model_dim)
        self.output = nn.Linear(model_dim, model_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, pad_mask: Tensor | None) -> Tensor:
        """(B, T, D), (B, T) True at padding -> (B, T, D), without the residual. No mask: nothing is padding."""
        x = F.glu(self.gated(self.norm(x)), dim=-1)
        if pad_mask is not None:
            x = x * (~pad_mask).to(x.dtype)[:, :, None]  # the kernel reads zeros beyond the end, alone or padded
        assert self.depthwise.bias is not None
        x = depthwise_conv(x, self.depthwise.weight, self.depthwise.bias)
        x = self.inner_norm(x, pad_mask) if isinstance(self.inner_norm, MaskedBatchNorm) else self.inner_norm(x)
        return self.dropout(self.output(F.silu(x)))  # type: ignore[no-any-return]
