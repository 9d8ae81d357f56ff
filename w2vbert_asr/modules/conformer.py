"""The conformer block (Gulati et al. 2020, section 2.4), as W2V-BERT stacks it.

Dimension letters: B batch, T frames, D model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from w2vbert_asr.modules.attention import SelfAttention
from w2vbert_asr.modules.convolution import ConvolutionModule
from w2vbert_asr.modules.feed_forward import FeedForward


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """model_dim: D. feed_forward_dim: hidden units of both feed-forward modules. kernel_size: frames, odd.

    conv_norm: normalisation inside the convolution module. dropout: probability, everywhere in the block.
    """

    model_dim: int = 256
    num_heads: int = 4
    feed_forward_dim: int = 1024
    kernel_size: int = 15
    conv_norm: Literal["layer", "batch"] = "layer"
    dropout: float = 0.1

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        found = []
        if self.num_heads < 1 or self.model_dim % self.num_heads:
            found.append(f"model_dim={self.model_dim} is not a multiple of num_heads={self.num_heads}")
        if self.kernel_size % 2 == 0:
            found.append(f"kernel_size={self.kernel_size} must be odd, to be centred on its frame")
        if not 0.0 <= self.dropout < 1.0:
            found.append(f"dropout={self.dropout} must lie in [0, 1)")
        return found


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each a residual, then LayerNorm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.feed_forward1 = FeedForward(config.model_dim, config.feed_forward_dim, config.dropout)
        self.attention = SelfAttention(config.model_dim, config.num_heads, config.dropout)
        self.convolution = ConvolutionModule(config.model_dim, config.kernel_size, config.conv_norm, config.dropout)
        self.feed_forward2 = FeedForward(config.model_dim, config.feed_forward_dim, config.dropout)
        self.norm = nn.LayerNorm(config.model_dim)

    def forward(self, x: Tensor, pad_mask: Tensor | None) -> Tensor:
        """(B, T, D), (B, T) True at padding -> (B, T, D). No mask: nothing is padding."""
        x = x + 0.5 * self.feed_forward1(x)
        x = x + self.attention(x, pad_mask)
        x = x + self.convolution(x, pad_mask)
        x = x + 0.5 * self.feed_forward2(x)
        return self.norm(x)  # type: ignore[no-any-return]
