"""The acoustic encoder that pre-training and fine-tuning share.

Dimension letters: B batch, T frames, F mel bins, D model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from w2vbert_asr.batch import is_full, lengths_to_pad_mask
from w2vbert_asr.modules.conformer import ConformerBlock, ConformerConfig
from w2vbert_asr.modules.dropout import Dropout
from w2vbert_asr.modules.subsampling import Subsampling, SubsamplingConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """num_layers: conformer blocks in all (of both stacks in pre-training).

    checkpoint_blocks: recompute each block in the backward pass, which saves its activations.
    """

    num_layers: int = 12
    subsampling: SubsamplingConfig = field(default_factory=SubsamplingConfig)
    block: ConformerConfig = field(default_factory=ConformerConfig)
    checkpoint_blocks: bool = False


class Encoder(nn.Module):
    """Feature encoder, linear projection and a stack of conformer blocks."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.subsampling = Subsampling(config.subsampling)
        self.projection = nn.Linear(self.subsampling.output_dim, config.block.model_dim)
        self.dropout = Dropout(config.block.dropout)
        self.blocks = nn.ModuleList(ConformerBlock(config.block) for _ in range(config.num_layers))

    @property
    def output_dim(self) -> int:
        """D."""
        return self.config.block.model_dim

    def project(self, features: Tensor) -> Tensor:
        """(B, T, feature dim) -> (B, T, D), the input of the first block."""
        return self.dropout(self.projection(features))  # type: ignore[no-any-return]

    def run_blocks(self, x: Tensor, pad_mask: Tensor | None, start: int, stop: int) -> Tensor:
        """Blocks start to stop - 1: (B, T, D), (B, T) -> (B, T, D). No mask: nothing is padding."""
        for block in self.blocks[start:stop]:
            if self.config.checkpoint_blocks and self.training:
                x = checkpoint(block, x, pad_mask, use_reentrant=False)
            else:
                x = block(x, pad_mask)
        return x

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> encoder_out (B, ceil(T / 4), D), encoder_out_lens (B,)."""
        features, lens = self.subsampling(feats, feat_lens)
        padding = None if is_full(lens, features.shape[1]) else lengths_to_pad_mask(lens, features.shape[1])
        return self.run_blocks(self.project(features), padding, 0, len(self.blocks)), lens
