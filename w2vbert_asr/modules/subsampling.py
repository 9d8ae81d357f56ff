"""The feature encoder: two strided 2-D convolutions, 10 ms frames in, 40 ms frames out.

W2v-BERT (Chung et al. 2021). Dimension letters: B batch, T frames, F mel bins, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.batch import lengths_to_pad_mask

Length = TypeVar("Length", Tensor, int)


@dataclass(frozen=True, kw_only=True)
class SubsamplingConfig:
    """num_mel_bins: F of the input. channels: of both convolutions (the paper does not state it)."""

    num_mel_bins: int = 80
    channels: int = 64

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        return [] if min(self.num_mel_bins, self.channels) > 0 else ["num_mel_bins and channels must be positive"]


class Subsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 in time and frequency, each with ReLU, then LayerNorm over (C, F / 4).

    A valid frame never sees padding: what the convolution would read there is set to zero first.
    """

    def __init__(self, config: SubsamplingConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, config.channels, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(config.channels, config.channels, kernel_size=3, stride=2, padding=1)
        self.output_dim = config.channels * subsampled(subsampled(config.num_mel_bins))
        self.norm = nn.LayerNorm(self.output_dim)

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, ceil(T / 4), C * ceil(F / 4)), (B,)."""
        x = feats.masked_fill(lengths_to_pad_mask(feat_lens, feats.shape[1])[:, :, None], 0.0)
        lens = subsampled(feat_lens)
        halved = subsampled(feats.shape[1])
        # In bf16 oneDNN and cuDNN are faster with channels last, in float32 oneDNN is not.
        device = x.device.type
        in_bf16 = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        layout = torch.channels_last if in_bf16 else torch.contiguous_format
        x = _convolve(self.conv1, x[:, None], layout)  # (B, C, T / 2, F / 2), the largest there is: changed in place
        x = x.mul_((~lengths_to_pad_mask(lens, halved)).to(x.dtype)[:, None, :, None])
        x = torch.relu_(_convolve(self.conv2, torch.relu_(x), layout))
        return self.norm(x.transpose(1, 2).flatten(2)), subsampled(lens)


def _convolve(conv: nn.Conv2d, x: Tensor, layout: torch.memory_format) -> Tensor:
    weight = conv.weight.to(memory_format=layout)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding).to(memory_format=layout)


def subsampled(length: Length) -> Length:
    """Length after one convolution of kernel 3, stride 2 and padding 1: ceil(length / 2)."""
    return (length + 1) // 2
