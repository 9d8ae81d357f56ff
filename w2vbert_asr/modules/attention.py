"""Multi-head self-attention without a positional term: in W2V-BERT the convolutions carry position.

W2V-BERT (Chung et al. 2021) uses no relative attention. Dimension letters: B batch, T frames, D model, H heads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.modules.dropout import Dropout


class SelfAttention(nn.Module):
    """LayerNorm, one product for queries, keys and values, fused attention, output projection, dropout.

    The attention weights themselves are not dropped: that would forbid the fused kernel on a CPU.
    """

    def __init__(self, model_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(model_dim)
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.output = nn.Linear(model_dim, model_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, pad_mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) True at padding -> (B, T, D), without the residual."""
        batch, frames, dim = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, frames, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D / H) each
        precision: AbstractContextManager[object] = nullcontext()
        if x.device.type == "cpu":  # there the fused kernel is up to six times slower backward in bf16 than in float32
            query, key, value = query.float(), key.float(), value.float()
            precision = torch.autocast("cpu", enabled=False)
        with precision:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=~pad_mask[:, None, None, :])
        return self.dropout(self.output(context.transpose(1, 2).reshape(batch, frames, dim)))  # type: ignore[no-any-return]
