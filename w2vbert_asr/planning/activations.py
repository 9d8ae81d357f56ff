"""What the parts of the encoder hold in memory during a step, in closed form.

What autograd saves is counted tensor by tensor, from the operations of each part; what lives for a moment only, by its
largest. Sizes are in bytes.

Dimension letters: B items, T frames (40 ms), F mel bins, E features of the feature encoder, D model, H heads, X hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.modules.attention import MAX_FRAMES_WRITTEN_OUT
from w2vbert_asr.modules.conformer import ConformerConfig
from w2vbert_asr.modules.subsampling import SubsamplingConfig, subsampled
from w2vbert_asr.planning.flops import feature_dim
from w2vbert_asr.planning.training import BatchShape
from w2vbert_asr.training.precision import Precision

FLOAT, INT, MOMENTS = 4, 8, 8  # bytes: of a float32, of an int64, of a row's mean and deviation in LayerNorm


@dataclass(frozen=True, kw_only=True)
class Component:
    """A step of the forward pass.

    prefixes: of the names of its parameters. saved: from its forward to its backward pass. until_end: from its forward
    pass to the end of the whole one. forward, backward: the most that it holds at a time during that pass, `saved`
    included. recomputed: its forward pass is made again in the backward pass (activation checkpointing).
    """

    prefixes: tuple[str, ...]
    saved: float
    until_end: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    recomputed: bool = False
    kind: Literal["activations", "lattice"] = "activations"


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Bytes of a number, on a device.

    product: what products and convolutions take and give. norm: what LayerNorm gives, and the residual stream with it
    (autocast makes it float32 on a GPU, and leaves it in bf16 on a CPU). attention: queries, keys, values and context.
    attention_weight: one that is kept; 0 for a fused kernel, which keeps none. dropout_mask: torch's own on a GPU, that
    of modules/dropout on a CPU.
    """

    device: Literal["cpu", "cuda"]
    product: int
    norm: int
    attention: int
    attention_weight: int
    dropout_mask: int

    @staticmethod
    def of(precision: Precision, device: Literal["cpu", "cuda"]) -> Widths:
        """As training in `precision` has them."""
        product = 2 if precision == "bf16" else 4
        if device == "cpu":
            kept = product if precision == "bf16" else 0
            norm, weight, mask = product, kept, product
        else:
            norm, weight, mask = FLOAT, 0, 1
        return Widths(
            device=device, product=product, norm=norm, attention=product, attention_weight=weight, dropout_mask=mask
        )

    def mask(self, dropout: float) -> int:
        """Of what dropout keeps; nothing without dropout."""
        return self.dropout_mask if dropout else 0


def subsampling(config: SubsamplingConfig, shape: BatchShape, widths: Widths) -> Component:
    """Input, both convolutions' outputs after ReLU, input of LayerNorm; its output is for the next part."""
    frames, bins = subsampled(shape.feat_frames), subsampled(config.num_mel_bins)
    feats = shape.items * shape.feat_frames * config.num_mel_bins * widths.product
    first = shape.items * config.channels * frames * bins * widths.product
    rows = shape.items * shape.frames
    second = rows * feature_dim(config) * widths.product
    normed = rows * feature_dim(config) * widths.norm
    saved = feats + first + second + normed + rows * MOMENTS
    return Component(
        prefixes=("encoder.subsampling.",),
        saved=saved,
        forward=saved + second + normed,
        backward=max(saved + 2 * normed, feats + 3 * first + second),
    )


def blocks(config: EncoderConfig, shape: BatchShape, widths: Widths, start: int, stop: int) -> list[Component]:
    """Conformer blocks start to stop - 1."""
    rows = shape.items * shape.frames
    own = rows * block_bytes(config.block, shape.frames, widths)
    hidden = rows * config.block.feed_forward_dim * widths.product
    stream = rows * config.block.model_dim * widths.norm
    return [
        Component(
            prefixes=(f"encoder.blocks.{index}.",),
            saved=stream if config.checkpoint_blocks else own,
            forward=stream + 2 * hidden if config.checkpoint_blocks else own + hidden,
            backward=own + hidden + stream,
            recomputed=config.checkpoint_blocks,
        )
        for index in range(start, stop)
    ]


def block_bytes(config: ConformerConfig, frames: int, widths: Widths) -> float:
    """What autograd saves of one of `frames` in one block: the inputs of LayerNorms, products and nonlinearities."""
    dim, product, norm, attention = config.model_dim, widths.product, widths.norm, widths.attention
    mask = widths.mask(config.dropout)
    feed_forward = dim * (norm + product + mask) + config.feed_forward_dim * (2 * product + mask) + MOMENTS
    cast = product if attention != product else 0
    if widths.attention_weight and frames <= MAX_FRAMES_WRITTEN_OUT:
        heads = dim * attention + config.num_heads * frames * widths.attention_weight  # scaled queries, weights
    else:
        heads = config.num_heads * FLOAT
    attended = dim * (norm + product + 4 * attention + cast + mask) + heads + MOMENTS
    inner = 2 * norm if config.conv_norm == "layer" else 3 * FLOAT
    convolved = dim * (norm + 5 * product + inner + mask) + 2 * MOMENTS
    return 2 * feed_forward + attended + convolved + dim * norm + MOMENTS
