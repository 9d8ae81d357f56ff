"""Multi-head self-attention without a positional term: in W2V-BERT the convolutions carry position.

W2V-BERT (Chung et al. 2021) uses no relative attention. Dimension letters: B batch, T frames, D model, H heads, E
dimension of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.modules.dropout import Dropout

_MAX_WEIGHTS = 1 << 21  # of the heads taken together: 4 MB in bf16


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
        context = attend(self.qkv(self.norm(x)).view(batch, frames, 3, self.num_heads, dim // self.num_heads), pad_mask)
        return self.dropout(self.output(context.reshape(batch, frames, dim)))  # type: ignore[no-any-return]


def attend(qkv: Tensor, pad_mask: Tensor) -> Tensor:
    """Softmax attention to frames that are not padding, scaled by 1 / sqrt(E), in the dtype of `qkv`.

    (B, T, 3, H, E) queries, keys and values, (B, T) True at padding -> (B, T, H, E). What stands at
    padding means nothing.
    """
    on_cpu = qkv.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and qkv.dtype == torch.bfloat16:  # torch's fused kernel is half as fast there
        return _InBfloat16OnCpu.apply(qkv, pad_mask)  # type: ignore[no-any-return]
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, E) each
    return F.scaled_dot_product_attention(query, key, value, attn_mask=~pad_mask[:, None, None, :]).transpose(1, 2)


class _InBfloat16OnCpu(torch.autograd.Function):
    """Attention written out, of some heads of one item at a time, whose weights fit into the cache.

    They are made again in the backward pass. Without padding, so that there is no mask; zero at padding.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, pad_mask: Tensor) -> Tensor:
        lens = (~pad_mask).sum(1).tolist()
        ctx.save_for_backward(qkv)
        ctx.lens = lens
        batch, frames, _, heads, dim = qkv.shape
        context = qkv.new_zeros(batch, frames, heads, dim)
        for part, query, key, value in _parts(qkv, lens):
            context[part] = torch.bmm(_weights(query, key), value).transpose(0, 1)
        return context

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (qkv,) = ctx.saved_tensors
        grad_qkv = torch.zeros_like(qkv)
        for part, query, key, value in _parts(qkv, ctx.lens):
            item, frames, heads = part
            of_query, of_key, of_value = (grad_qkv[item, frames, which, heads].transpose(0, 1) for which in range(3))
            of_context, weights = grad[part].transpose(0, 1), _weights(query, key)
            of_value.copy_(torch.bmm(weights.transpose(1, 2), of_context))
            of_weights = torch.bmm(of_context, value.transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_scores *= query.shape[-1] ** -0.5
            of_query.copy_(torch.bmm(of_scores, key))
            of_key.copy_(torch.bmm(of_scores.transpose(1, 2), query))
        return grad_qkv, None


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """(H, T, E), (H, T, E) -> (H, T, T)."""
    return torch.softmax(torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2)), dim=-1)


def _parts(qkv: Tensor, lens: Sequence[int]) -> Iterator[tuple[tuple[int, slice, slice], Tensor, Tensor, Tensor]]:
    """(item, its frames, some heads), and queries, keys and values there, (H, T, E) each."""
    for item, length in enumerate(lens):
        step = max(1, _MAX_WEIGHTS // max(length, 1) ** 2)
        for first in range(0, qkv.shape[3] if length else 0, step):
            part = item, slice(length), slice(first, first + step)
            query, key, value = qkv[item, :length, :, part[2]].permute(1, 2, 0, 3).unbind(0)
            yield part, query, key, value
