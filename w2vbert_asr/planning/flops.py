"""Floating-point operations of a forward pass in closed form, a multiplication and an addition counting two.

Counted is what torch's counter counts with attention written out: products, convolutions and attention; and LSTMs. A
training step is three forward passes: the backward pass has two products for each one.

Dimension letters: B items, T frames (40 ms), F mel bins, U tokens, V vocabulary, D model, G codebooks, C codes a book,
M masked frames of an item, J joiner.
"""

from __future__ import annotations

from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.transducer import TransducerConfig
from w2vbert_asr.models.w2vbert import W2VBertConfig
from w2vbert_asr.modules.conformer import ConformerConfig
from w2vbert_asr.modules.spans import SpanMaskConfig
from w2vbert_asr.modules.subsampling import SubsamplingConfig, subsampled
from w2vbert_asr.planning.training import BatchShape

PASSES = 3  # forward passes that a step costs


def forward_flops(model: W2VBertConfig | TransducerConfig, shape: BatchShape, vocab_size: int) -> dict[str, float]:
    """By part of the model. vocab_size: V, of the transducer."""
    heads = (
        pretraining_flops(model, shape)
        if isinstance(model, W2VBertConfig)
        else transducer_flops(model, shape, vocab_size)
    )
    return {**encoder_flops(model.encoder, shape), **heads}


def encoder_flops(config: EncoderConfig, shape: BatchShape) -> dict[str, float]:
    """Feature encoder, projection and all blocks."""
    rows, block = shape.items * shape.frames, config.block
    return {
        "encoder.subsampling": subsampling_flops(config.subsampling, shape),
        "encoder.projection": 2.0 * rows * feature_dim(config.subsampling) * block.model_dim,
        "encoder.blocks": config.num_layers * block_flops(block, shape),
    }


def subsampling_flops(config: SubsamplingConfig, shape: BatchShape) -> float:
    """Two 3 x 3 convolutions: 1 to C channels, then C to C, each of half the frames and bins."""
    frames, bins = subsampled(shape.feat_frames), subsampled(config.num_mel_bins)
    first = 2.0 * 9 * frames * bins * config.channels
    second = 2.0 * 9 * subsampled(frames) * subsampled(bins) * config.channels**2
    return shape.items * (first + second)


def feature_dim(config: SubsamplingConfig) -> int:
    """What the feature encoder gives for a frame."""
    return config.channels * subsampled(subsampled(config.num_mel_bins))


def block_flops(config: ConformerConfig, shape: BatchShape) -> float:
    """A conformer block."""
    rows, dim = shape.items * shape.frames, config.model_dim
    feed_forward = 2 * 2.0 * rows * dim * config.feed_forward_dim
    attention = 2.0 * rows * dim * (3 * dim + dim) + 2 * 2.0 * rows * shape.frames * dim
    convolution = 2.0 * rows * dim * (2 * dim + config.kernel_size + dim)
    return 2 * feed_forward + attention + convolution


def pretraining_flops(config: W2VBertConfig, shape: BatchShape) -> dict[str, float]:
    """Quantizer, contrastive task (an (M, M) product an item) and masked prediction."""
    rows, masked = shape.items * shape.frames, shape.items * masked_frames(config.span_mask, shape.frames)
    quantizer, dim = config.quantizer, config.encoder.block.model_dim
    codes = quantizer.num_codebooks * quantizer.num_codes
    flops = {"quantizer": 2.0 * rows * feature_dim(config.encoder.subsampling) * codes}
    if config.contrastive_weight:
        flops["quantizer"] += 2.0 * masked * quantizer.num_codes * quantizer.code_dim
        similarity = 2.0 * masked * masked_frames(config.span_mask, shape.frames) * quantizer.code_dim
        flops["context"] = 2.0 * masked * dim * quantizer.code_dim + similarity
    if config.has_prediction:
        flops["prediction"] = 2.0 * masked * dim * codes
    return flops


def masked_frames(config: SpanMaskConfig, frames: int) -> float:
    """Frames of an item that are masked, on average: those where one of the last `span` frames starts a span."""
    return sum(1.0 - (1.0 - config.start_prob) ** min(frame + 1, config.span) for frame in range(frames))


def transducer_flops(config: TransducerConfig, shape: BatchShape, vocab_size: int) -> dict[str, float]:
    """Projection block, LSTM decoder, joiner with its (T, U + 1) lattice or a band of it, CTC head."""
    rows, positions = shape.items * shape.frames, shape.items * (shape.tokens + 1)
    dim, joiner_dim = config.encoder.block.model_dim, config.joiner.joiner_dim
    inputs = config.projection_dim * rows + config.decoder.hidden_dim * positions
    flops = {
        "projection": 2.0 * rows * dim * config.projection_dim,
        "decoder": positions * lstm_flops(config.decoder.embedding_dim, config.decoder.hidden_dim),
        "joiner": 2.0 * joiner_dim * (inputs + rows * cells_of_frame(config, shape.tokens) * vocab_size),
    }
    if config.loss == "pruned":
        scores = config.projection_dim * rows + config.decoder.hidden_dim * positions
        flops["additive"] = 2.0 * vocab_size * (scores + rows * (shape.tokens + 1))
    for _ in range(config.decoder.num_layers - 1):
        flops["decoder"] += positions * lstm_flops(config.decoder.hidden_dim, config.decoder.hidden_dim)
    if config.ctc_weight:
        flops["ctc"] = 2.0 * rows * dim * vocab_size
    return flops


def cells_of_frame(config: TransducerConfig, num_tokens: int) -> int:
    """Cells of the lattice that the joiner computes of each frame."""
    return num_tokens + 1 if config.loss == "full" else min(config.prune_range, num_tokens + 1)


def lstm_flops(input_dim: int, hidden_dim: int) -> float:
    """A step of an LSTM layer: four gates of input and state."""
    return 2.0 * 4 * hidden_dim * (input_dim + hidden_dim)
