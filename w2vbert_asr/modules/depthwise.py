"""Depthwise convolution over time of (B, T, D) tensors, in the layout they have.

Dimension letters: B batch, T frames, D model, K kernel.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import subprocess
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_log = logging.getLogger(__name__)


@functools.cache
def triton_works() -> bool:
    """Whether our kernels for a GPU can be used here: Triton is there, and finds the C compiler that it needs."""
    if importlib.util.find_spec("triton") is None:
        return False
    from w2vbert_asr.modules.depthwise_triton import DepthwiseOnGpu

    try:
        one = torch.ones(1, 1, 1, device="cuda")
        DepthwiseOnGpu.apply(one, one, one[0, 0])
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        _log.warning("the kernel for depthwise convolutions does not compile, torch's slower one is used: %s", error)
        return False
    return True


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, T, D), (D, 1, K) with K odd, (D,) -> (B, T, D): every channel with its own kernel, zeros beyond the ends.

    The result is in the dtype of x.
    """
    if not torch.compiler.is_compiling():
        if x.device.type == "cuda" and triton_works():
            from w2vbert_asr.modules.depthwise_triton import DepthwiseOnGpu

            return DepthwiseOnGpu.apply(x, weight, bias)  # type: ignore[no-any-return]
        if x.device.type == "cpu":
            return _OnCpu.apply(x, weight.to(x.dtype), bias.to(x.dtype))  # type: ignore[no-any-return]
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    padding = weight.shape[-1] // 2
    return F.conv1d(x.transpose(1, 2), weight, bias, padding=padding, groups=len(bias)).transpose(1, 2)


class _OnCpu(torch.autograd.Function):
    """As a 2-D convolution, for which oneDNN has a fast kernel: with channels last, (B, D, T, 1) views (B, T, D).

    Frames along the width, (B, D, 1, T), would be faster yet, but there oneDNN 3 never returns for some shapes on two
    threads (torch 2.14.1: B = 5, T = 400, D = 144, K = 15 in bf16).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        image, padding = x.transpose(1, 2).unsqueeze(3), (weight.shape[-1] // 2, 0)
        y = F.conv2d(image, weight.unsqueeze(3), bias, padding=padding, groups=len(bias))
        return y.squeeze(3).transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        image, of_image = (one.transpose(1, 2).unsqueeze(3) for one in (x, grad))
        channels, half = len(weight), weight.shape[-1] // 2
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            of_image, image, weight.unsqueeze(3), [channels], [1, 1], [half, 0], [1, 1], False, [0, 0], channels,
            ctx.needs_input_grad,
        )  # fmt: skip
        return (
            None if of_x is None else of_x.squeeze(3).transpose(1, 2),
            None if of_weight is None else of_weight.squeeze(3),
            of_bias,
        )
