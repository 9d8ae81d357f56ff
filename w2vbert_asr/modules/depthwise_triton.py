"""Depthwise convolution over time on a GPU, in the layout of (B, T, D), by kernels of our own in Triton.

torch's wants (B, D, T): four copies in and out, which take longer than the convolution. All sums are in float32 and
have one order. Dimension letters: B batch, T frames, D model, K kernel, P partial sums.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_FRAMES, _CHANNELS, _PARTIAL_SUMS = 32, 64, 64  # of a tile; programs that share the sums of a weight


class DepthwiseOnGpu(torch.autograd.Function):
    """As `depthwise_conv`; weight (D, 1, K) and bias (D,) may be in another precision than x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        of_bias = grad.sum((0, 1), dtype=torch.float32).to(weight.dtype)
        return _convolve(grad, weight, None), _gradient_of_weight(x.contiguous(), grad, weight), of_bias


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, T, D); without a bias the kernel is turned around, as the gradient of x needs it."""
    x, weight = x.contiguous(), weight.contiguous()
    batch, frames, channels = x.shape
    y = torch.empty_like(x)
    grid = (triton.cdiv(frames, _FRAMES), triton.cdiv(channels, _CHANNELS), batch)
    _convolve_kernel[grid](
        x, weight, weight if bias is None else bias, y, frames, channels,
        KERNEL=weight.shape[-1], IS_TURNED=bias is None, FRAMES=_FRAMES, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return y


def _gradient_of_weight(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """(B, T, D), (B, T, D) -> (D, 1, K)."""
    batch, frames, channels = x.shape
    kernel = weight.shape[-1]
    sums = torch.empty(_PARTIAL_SUMS, kernel, channels, device=x.device)
    _gradient_of_weight_kernel[(triton.cdiv(channels, _CHANNELS), kernel, _PARTIAL_SUMS)](
        x, grad, sums, batch, frames, channels,
        KERNEL=kernel, FRAMES=_FRAMES, CHANNELS=_CHANNELS, PARTIAL_SUMS=_PARTIAL_SUMS,
    )  # fmt: skip
    return sums.sum(0).t().unsqueeze(1).to(weight.dtype)


@triton.jit
def _convolve_kernel(
    x, weight, bias, y, frames, channels,
    KERNEL: tl.constexpr, IS_TURNED: tl.constexpr, FRAMES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    item = tl.program_id(2).to(tl.int64) * frames * channels
    is_channel = channel < channels
    total = tl.zeros((FRAMES, CHANNELS), tl.float32)
    if not IS_TURNED:
        total += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    for tap in range(KERNEL):
        source = frame + tap - KERNEL // 2
        is_there = ((source >= 0) & (source < frames))[:, None] & is_channel[None, :]
        value = tl.load(x + item + source[:, None] * channels + channel[None, :], mask=is_there, other=0.0)
        place = KERNEL - 1 - tap if IS_TURNED else tap
        factor = tl.load(weight + channel * KERNEL + place, mask=is_channel, other=0.0)
        total += value.to(tl.float32) * factor.to(tl.float32)[None, :]
    is_there = (frame < frames)[:, None] & is_channel[None, :]
    tl.store(y + item + frame[:, None] * channels + channel[None, :], total, mask=is_there)


@triton.jit
def _gradient_of_weight_kernel(
    x, grad, sums, batch, frames, channels,
    KERNEL: tl.constexpr, FRAMES: tl.constexpr, CHANNELS: tl.constexpr, PARTIAL_SUMS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    tap, part = tl.program_id(1), tl.program_id(2)
    is_channel = channel < channels
    tiles = tl.cdiv(frames, FRAMES)
    total = tl.zeros((CHANNELS,), tl.float32)
    for tile in range(part, batch * tiles, PARTIAL_SUMS):
        frame = (tile % tiles) * FRAMES + tl.arange(0, FRAMES)
        item = (tile // tiles).to(tl.int64) * frames * channels
        source = frame + tap - KERNEL // 2
        is_there = ((frame < frames) & (source >= 0) & (source < frames))[:, None] & is_channel[None, :]
        value = tl.load(x + item + source[:, None] * channels + channel[None, :], mask=is_there, other=0.0)
        above = tl.load(grad + item + frame[:, None] * channels + channel[None, :], mask=is_there, other=0.0)
        total += tl.sum(value.to(tl.float32) * above.to(tl.float32), axis=0)
    tl.store(sums + (part * KERNEL + tap) * channels + channel, total, mask=is_channel)
