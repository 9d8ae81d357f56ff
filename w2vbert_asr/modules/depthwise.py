"""Depthwise convolution over time of (B, T, D) tensors, in the layout they have.

Dimension letters: B batch, T frames, D model, K kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, T, D), (D, 1, K) with K odd, (D,) -> (B, T, D): every channel with its own kernel, zeros beyond the ends.

    The products are in the dtype of x.
    """
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _OnCpu.apply(x, weight, bias)  # type: ignore[no-any-return]
    padding = weight.shape[-1] // 2
    return F.conv1d(x.transpose(1, 2), weight, bias, padding=padding, groups=len(bias)).transpose(1, 2)


class _OnCpu(torch.autograd.Function):
    """Each of the three products as the 2-D convolution that oneDNN has a fast kernel for.

    As images with channels last, (B, D, 1, T) and (B, D, T, 1) are views of (B, T, D). Frames along the width are
    thirty times as fast as conv1d forward and in the gradient of x, but not in that of the weights, where frames along
    the height are five times as fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        image, padding = x.transpose(1, 2).unsqueeze(2), (0, weight.shape[-1] // 2)
        y = F.conv2d(image, weight.unsqueeze(2), bias, padding=padding, groups=len(bias))
        return y.squeeze(2).transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = _backward(grad, x, weight, 2, (True, False, False))[0] if wants_x else None
        grad_weight = grad_bias = None
        if wants_weight or wants_bias:
            _, grad_weight, grad_bias = _backward(grad, x, weight, 3, (False, True, True))
        if grad_x is not None:
            grad_x = grad_x.squeeze(2).transpose(1, 2)
        return grad_x, None if grad_weight is None else grad_weight.squeeze(3), grad_bias


def _backward(grad: Tensor, x: Tensor, weight: Tensor, unit: int, wanted: tuple[bool, ...]) -> tuple[Tensor, ...]:
    """torch's gradients of x, weight and bias, those wanted; unit: the dimension of size 1 in the image."""
    channels, half = len(weight), weight.shape[-1] // 2
    image, of_image, kernel = x.transpose(1, 2).unsqueeze(unit), grad.transpose(1, 2).unsqueeze(unit), weight
    padding = [0, half] if unit == 2 else [half, 0]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        of_image, image, kernel.unsqueeze(unit), [channels], [1, 1], padding, [1, 1], False, [0, 0], channels, wanted
    )
    return found
