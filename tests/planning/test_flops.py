"""Planned operations against torch's counter: the forward pass with attention written out, LSTMs by formula."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.planning.trainings import Kind, make_batch, make_model, make_training
from w2vbert_asr import config as configuration
from w2vbert_asr.commands import finetune, pretrain
from w2vbert_asr.models.encoder import Encoder, EncoderConfig
from w2vbert_asr.models.transducer import Transducer
from w2vbert_asr.modules.spans import SpanMaskConfig, draw_span_mask
from w2vbert_asr.planning.flops import encoder_flops, forward_flops, lstm_flops, masked_frames
from w2vbert_asr.planning.plan import Gpu, make_plan
from w2vbert_asr.planning.training import BatchShape, PlannedTraining

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.03


def counted(training: PlannedTraining) -> float:
    """Of the forward pass of the real model on noise."""
    model, shape = make_model(training), training.batch()
    batch = make_batch(training, shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(batch, seed=1, step=0)
    total = float(counter.get_total_flops())
    if isinstance(model, Transducer):
        total += shape.items * (shape.tokens + 1) * lstm_by_hand(model.decoder.lstm)
    return total


def lstm_by_hand(lstm: nn.LSTM) -> float:
    """A step: each weight of each matrix is multiplied and added once."""
    return sum(2.0 * parameter.numel() for parameter in lstm.parameters() if parameter.ndim == 2)


def test_lstm() -> None:
    assert lstm_flops(3, 5) == lstm_by_hand(nn.LSTM(3, 5))


@pytest.mark.parametrize("size", ["small", "larger"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])  # without it with a CTC head
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_step_is_three_counted_forward_passes(kind: Kind, dropout: float, size: str) -> None:
    training = make_training(kind, size, dropout=dropout, accumulate=2)
    plan = make_plan(training, 1, Gpu(peak_flops=1e12, utilisation=0.5, memory=2**30))
    assert plan.flops_per_step == pytest.approx(2 * 3 * counted(training), rel=TOLERANCE)


def encoder_configs() -> list[EncoderConfig]:
    options = {"train": ["train"], "dev": "dev", "out": "out"}
    conf = ROOT / "recipes" / "librispeech" / "conf"
    wanted = configuration.load(pretrain.Config, conf / "pretrain_xl.yaml", options=options)
    tuned = configuration.load(
        finetune.Config, conf / "finetune_960h_base.yaml", options={**options, "tokenizer": "bpe.model"}
    )
    return [wanted.model.encoder, tuned.model.encoder]


@pytest.mark.parametrize("config", encoder_configs(), ids=["xl", "base"])
def test_full_encoders_on_the_meta_device(config: EncoderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2vbert_asr.models.encoder.is_full", lambda lens, frames: False)
    shape = BatchShape(items=3, feat_frames=3203, tokens=0)
    with torch.device("meta"):
        encoder = Encoder(dataclasses.replace(config, checkpoint_blocks=False))
        feats, lens = torch.empty(3, 3203, config.subsampling.num_mel_bins), torch.empty(3, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            encoded, _ = encoder(feats, lens)
    assert encoded.shape[1] == shape.frames
    assert sum(encoder_flops(config, shape).values()) == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_the_joiner_on_the_meta_device() -> None:
    training = make_training("finetune")
    shape = training.batch()
    with torch.device("meta"):
        model = Transducer(training.model, training.vocab_size, 0)  # type: ignore[arg-type]
        dim = training.model.joiner.joiner_dim  # type: ignore[union-attr]
        encoder_out = torch.empty(shape.items, shape.frames, 1, dim)
        decoder_out = torch.empty(shape.items, 1, shape.tokens + 1, dim)
        with FlopCounterMode(display=False) as counter:
            model.joiner.project_encoder(encoder_out)
            model.joiner.project_decoder(decoder_out)
            model.joiner(encoder_out, decoder_out)
    flops = forward_flops(training.model, shape, training.vocab_size)
    assert flops["joiner"] == counter.get_total_flops()


def test_masked_frames_are_those_of_many_draws() -> None:
    config = SpanMaskConfig(start_prob=0.05, span=7)
    draws = [
        draw_span_mask(torch.tensor([90]), 90, (f"utt{index}",), 1, 0, config).sum().item() for index in range(400)
    ]
    assert masked_frames(config, 90) == pytest.approx(math.fsum(draws) / len(draws), rel=0.05)
