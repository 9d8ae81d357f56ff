"""Small trainings to plan, and their real models, batches and steps."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from w2vbert_asr.batch import Batch
from w2vbert_asr.data.corpus import DataConfig
from w2vbert_asr.models.decoder import DecoderConfig
from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.joiner import JoinerConfig
from w2vbert_asr.models.transducer import Transducer, TransducerConfig
from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
from w2vbert_asr.modules.conformer import ConformerConfig
from w2vbert_asr.modules.quantizer import QuantizerConfig
from w2vbert_asr.modules.subsampling import SubsamplingConfig
from w2vbert_asr.planning.training import BatchShape, PlannedTraining
from w2vbert_asr.training.optimizer import OptimizerConfig, Part
from w2vbert_asr.training.run import TrainerConfig

Kind = Literal["pretrain", "finetune"]
SIZES = {  # dim, layers, channels, vocabulary, seconds, items, tokens a second
    "small": (64, 2, 16, 64, 8, 4, 4),
    "larger": (128, 4, 8, 256, 12, 3, 3),
}


def make_training(
    kind: Kind,
    size: str = "small",
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: Literal["cpu", "cuda"] = "cpu",
    optimizer: Literal["adamw", "adafactor"] = "adamw",
    conv_norm: Literal["layer", "batch"] = "layer",
    checkpoint_blocks: bool = False,
    dropout: float = 0.1,
    num_layers: int | None = None,
    frozen: tuple[str, ...] = (),
    **trainer: Any,
) -> PlannedTraining:
    """A training with items of one length, the feature encoder of 80 bins in front."""
    dim, layers, channels, vocab_size, seconds, items, rate = SIZES[size]
    layers = num_layers or layers
    block = ConformerConfig(
        model_dim=dim, num_heads=4, feed_forward_dim=4 * dim, conv_norm=conv_norm, dropout=dropout
    )  # fmt: skip
    encoder = EncoderConfig(
        num_layers=layers,
        subsampling=SubsamplingConfig(channels=channels),
        block=block,
        checkpoint_blocks=checkpoint_blocks,
    )
    model: W2VBertConfig | TransducerConfig
    if kind == "pretrain":
        quantizer = QuantizerConfig(num_codes=128, code_dim=dim)
        model = W2VBertConfig(encoder=encoder, contrastive_layers=layers // 2, quantizer=quantizer)
    else:
        model = TransducerConfig(
            encoder=encoder,
            projection_dim=dim,
            decoder=DecoderConfig(embedding_dim=dim, hidden_dim=dim, num_layers=2, dropout=dropout),
            joiner=JoinerConfig(joiner_dim=dim),
            ctc_weight=0.0 if dropout else 1.0,
        )
    return PlannedTraining(
        model=model,
        data=DataConfig(batch_seconds=float(items * seconds), crop_seconds=float(seconds)),
        trainer=TrainerConfig(device=device, precision=precision, max_steps=100, **trainer),
        optimizers={"all": Part(config=OptimizerConfig(name=optimizer))},
        freeze=frozen,
        vocab_size=vocab_size,
        utterance_seconds=float(seconds),
        tokens_per_second=float(rate),
    )


def make_model(training: PlannedTraining) -> nn.Module:
    """The planned model with weights."""
    torch.manual_seed(0)
    if isinstance(training.model, W2VBertConfig):
        return W2VBert(training.model, training.trainer.max_steps).train()
    return Transducer(training.model, training.vocab_size, 0).train()


def make_batch(training: PlannedTraining, shape: BatchShape) -> Batch:
    """Noise of the shape that was planned for."""
    return Batch(
        feats=torch.randn(shape.items, shape.feat_frames, training.model.encoder.subsampling.num_mel_bins),
        feat_lens=torch.full((shape.items,), shape.feat_frames),
        tokens=torch.randint(1, training.vocab_size, (shape.items, shape.tokens)),
        token_lens=torch.full((shape.items,), shape.tokens),
        utt_ids=tuple(f"utt{index}" for index in range(shape.items)),
    )
