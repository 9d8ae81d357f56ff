"""Multi-head self-attention without a positional term: in W2V-BERT the convolutions carry position.

W2V-BERT (Chung et al. 2021) uses no relative attention. Dimension letters: B batch, T frames, D model, H heads, E
dimension of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.modules.dropout import Dropout

MAX_FRAMES_WRITTEN_OUT = 1024  # 41 s: beyond that the weights take more memory than time is worth


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

    def forward(self, x: Tensor, pad_mask: Tensor | None) -> Tensor:
        """(B, T, D), (B, T) True at padding -> (B, T, D), without the residual. No mask: nothing is padding."""
        batch, frames, dim = x.shape
        context = attend(self.qkv(self.norm(x)).view(batch, frames, 3, self.num_heads, dim // self.num_heads), pad_mask)
        return self.dropout(self.output(context.reshape(batch, frames, dim)))  # type: ignore[no-any-return]


def attend(qkv: Tensor, pad_mask: Tensor | None) -> Tensor:
    """Softmax attention to frames that are not padding, scaled by 1 / sqrt(E), in the dtype of `qkv`.

    (B, T, 3, H, E) queries, keys and values, (B, T) True at padding -> (B, T, H, E). What stands at
    padding means nothing.
    """
    if qkv.dtype not in (torch.bfloat16, torch.float16):
        return _attend(qkv, pad_mask)
    shift = _means(qkv, pad_mask)
    return _attend(qkv - shift, pad_mask) + shift[:, :, 2]


def _means(qkv: Tensor, pad_mask: Tensor | None) -> Tensor:
    """Mean key and value of each item, (B, 1, 3, H, E), and 0 for its queries.

    The softmax does not see what all keys have in common, and what all values have in common goes straight to the
    output. In 16 bits, though, that part drowns the rest where frames are much alike, as they are to a network that has
    learnt little: the queries' gradients, differences of nearly equal numbers, are then noise. Any shift gives the same
    output, so it takes no gradient and need not be precise.
    """
    with torch.no_grad():
        if pad_mask is None:
            share = qkv.new_full(qkv.shape[:2], 1 / qkv.shape[1])
        else:
            share = (~pad_mask / (~pad_mask).sum(1, keepdim=True).clamp(min=1)).to(qkv.dtype)
        means = torch.bmm(share[:, None], qkv.flatten(2)).view(len(qkv), 1, *qkv.shape[2:])
        means[:, :, 0] = 0.0
        return means


def _attend(qkv: Tensor, pad_mask: Tensor | None) -> Tensor:
    on_cpu = qkv.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and qkv.dtype == torch.bfloat16 and qkv.shape[1] <= MAX_FRAMES_WRITTEN_OUT:
        return _written_out(qkv, pad_mask)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, E) each
    visible = None if pad_mask is None else ~pad_mask[:, None, None, :]  # without one a GPU has a faster kernel
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible).transpose(1, 2)


def _written_out(qkv: Tensor, pad_mask: Tensor | None) -> Tensor:
    """The same with the weights (B, H, T, T) kept: in bf16 on a CPU torch's fused kernel takes twice as long."""
    batch, frames, _, heads, dim = qkv.shape
    query, key, value = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)  # (B * H, T, E) each
    scores = torch.bmm(query * dim**-0.5, key.transpose(1, 2))
    if pad_mask is not None:
        is_padding = pad_mask.repeat_interleave(heads, 0)
        scores.masked_fill_(is_padding[:, None, :], torch.finfo(scores.dtype).min)
        value = value.masked_fill(is_padding[:, :, None], 0.0)  # where all is padding, all weights are alike
    context = torch.bmm(torch.softmax(scores, dim=-1), value)
    return context.view(batch, heads, frames, dim).transpose(1, 2)
