"""Planned memory against that of real steps, counted tensor by tensor."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.planning.live_tensors import LiveTensors
from tests.planning.trainings import Kind, make_batch, make_model, make_training
from w2vbert_asr.models.encoder import Encoder
from w2vbert_asr.models.transducer import TransducerConfig
from w2vbert_asr.planning.activations import Widths, blocks, subsampling
from w2vbert_asr.planning.heads import components
from w2vbert_asr.planning.memory import step_memory
from w2vbert_asr.planning.training import PlannedTraining
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.optimizer import build, freeze, state_shapes
from w2vbert_asr.training.precision import cpu_flags
from w2vbert_asr.training.update import Setting, compute_gradients

TOLERANCE = 0.06  # 0.15 is asked for; the deviations are below 0.04


def measured_peak(training: PlannedTraining) -> int:
    """Bytes of live tensors at the worst moment of the second step, which has an optimizer's state."""
    trainer, shape = training.trainer, training.batch()
    if trainer.precision == "bf16" and isinstance(training.model, TransducerConfig) and not cpu_flags():
        pytest.skip("torch's LSTM does not run in bf16 on this CPU")
    model = make_model(training)
    freeze(model, training.freeze)
    optimizers = build(model, training.optimizers, trainer.max_steps)
    optimizers.set_learning_rates(trainer.max_steps // 2)
    setting = Setting(seed=1, bf16=trainer.precision == "bf16", clip_norm=1.0, world=World())
    batches = [make_batch(training, shape) for _ in range(trainer.accumulate)]
    compute_gradients(model, optimizers.parameters, batches, 0, 0, setting)
    optimizers.step()
    optimizers.zero_grad()
    standing = [*model.parameters(), *model.buffers(), *optimizers.state().values()]
    with LiveTensors([*standing, *(one for batch in batches for one in (batch.feats, batch.tokens))]) as live:
        assert compute_gradients(model, optimizers.parameters, batches, 1, 0, setting).finite
        optimizers.step()
    return live.peak


def deviation(training: PlannedTraining) -> float:
    """Share by which the plan is above what a step takes."""
    return step_memory(training, training.parameters(), gpus=1).peak.total / measured_peak(training) - 1.0


def test_tensors_are_counted_while_they_live() -> None:
    held = torch.zeros(100)
    with LiveTensors([held]) as live:
        view = held[10:] * 2.0
        view = view[5:]
        other = torch.zeros(50, dtype=torch.int64)
        del other
        torch.zeros(10)
    assert (live.now, live.peak) == (400 + 360, 400 + 360 + 400)
    del view
    assert live.now == 400


@pytest.mark.parametrize("size", ["small", "larger"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_the_peak_of_a_step(kind: Kind, precision: Any, size: str) -> None:
    assert abs(deviation(make_training(kind, size, precision=precision))) < TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_blocks": True, "num_layers": 6},
        {"checkpoint_blocks": True, "num_layers": 6, "precision": "bf16"},
        {"conv_norm": "batch", "dropout": 0.0, "optimizer": "adafactor"},
        {"conv_norm": "batch", "dropout": 0.0, "precision": "bf16"},
        {"accumulate": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_the_peak_of_a_step_with_other_options(kind: Kind, options: dict[str, Any]) -> None:
    assert abs(deviation(make_training(kind, **options))) < TOLERANCE


def test_a_frozen_feature_encoder_saves_nothing() -> None:
    frozen = make_training("finetune", frozen=("encoder.subsampling",))
    free = make_training("finetune")
    assert abs(deviation(frozen)) < TOLERANCE
    plans = [step_memory(one, one.parameters(), gpus=1) for one in (frozen, free)]
    assert plans[0].peak.total < 0.9 * plans[1].peak.total


def test_an_update_that_is_larger_than_the_passes() -> None:
    """Many weights and little audio: the peak is where all gradients are."""
    training = make_training("finetune", "larger", optimizer="adafactor", checkpoint_blocks=True)
    training = dataclasses.replace(
        training, data=dataclasses.replace(training.data, batch_seconds=1.0), utterance_seconds=1.0
    )
    assert abs(deviation(training)) < TOLERANCE
    planned = step_memory(training, training.parameters(), gpus=1)
    assert planned.peak.gradients == planned.most.gradients > planned.peak.activations


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_optimizer_state_is_that_of_the_optimizer(optimizer: Any) -> None:
    training = make_training("pretrain", optimizer=optimizer)
    model = make_model(training)
    optimizers = build(model, training.optimizers, 100)
    setting = Setting(seed=1, bf16=False, clip_norm=1.0, world=World())
    compute_gradients(model, optimizers.parameters, [make_batch(training, training.batch())], 0, 0, setting)
    optimizers.step()
    state = optimizers.state()
    for name, parameter in model.named_parameters():
        for key, shape in state_shapes(optimizer, parameter.shape).items():
            assert state.pop(f"{name}/{key}").shape == shape
    assert state == {}


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_every_parameter_has_its_place(kind: Kind) -> None:
    training = make_training(kind, dropout=0.0)
    parts = components(training.model, training.batch(), Widths.of("fp32", "cpu"), training.vocab_size)
    for parameter in training.parameters():
        assert sum(parameter.name.startswith(part.prefixes) for part in parts) == 1, parameter.name


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_ranks(kind: Kind) -> None:
    """With as much audio a GPU, DDP costs its buckets and FSDP deals the rest out."""
    alone = make_training(kind, num_layers=6)
    many = dataclasses.replace(alone, data=dataclasses.replace(alone.data, batch_seconds=8 * alone.data.batch_seconds))
    parameters = alone.parameters()
    one = step_memory(alone, parameters, gpus=1).most
    ddp = step_memory(many, parameters, gpus=8).most
    fsdp = step_memory(many, parameters, gpus=8, strategy="fsdp").most
    assert ddp == dataclasses.replace(one, gradients=2 * one.gradients)
    assert (fsdp.activations, fsdp.lattice) == (one.activations, one.lattice)
    assert fsdp.optimizer == one.optimizer / 8
    unit = fsdp.weights - one.weights / 8
    assert 0 < unit < one.weights and fsdp.gradients == one.gradients / 8 + unit


def attention_as_on_a_gpu(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor) -> Tensor:
    """torch's fused kernel, which it would not choose without a GPU."""
    batch, heads, frames, _ = query.shape
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (one.to(torch.bfloat16) for one in (query, key, value))
    bias = torch.zeros_like(attn_mask, dtype=query.dtype).expand(batch, heads, frames, frames)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    context: Tensor = kernel(query, key, value, bias, True)[0]
    return context


@pytest.mark.parametrize("conv_norm", ["layer", "batch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_encoder_saves_on_a_gpu(precision: Any, conv_norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its operations in torch's pretence of a GPU, which knows dtypes and shapes and needs none."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention_as_on_a_gpu)
    monkeypatch.setattr("w2vbert_asr.modules.depthwise.triton_works", lambda: False)
    monkeypatch.setattr("w2vbert_asr.models.encoder.is_full", lambda lens, frames: False)
    training = make_training("pretrain", device="cuda", precision=precision, conv_norm=conv_norm)
    config, shape, widths = training.model.encoder, training.batch(), Widths.of(precision, "cuda")
    with FakeTensorMode(), torch.device("cuda"):
        encoder = Encoder(config).train()
        feats = torch.randn(shape.items, shape.feat_frames, 80)
        lens = torch.full((shape.items,), shape.feat_frames)
        with LiveTensors([*encoder.parameters(), feats]) as live:
            before = live.now
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
                encoded, _ = encoder(feats, lens)
            saved = live.now - before - encoded.untyped_storage().nbytes()
    parts = [subsampling(config.subsampling, shape, widths), *blocks(config, shape, widths, 0, config.num_layers)]
    rows, features = shape.items * shape.frames, encoder.subsampling.output_dim
    projection = rows * (features * widths.product + config.block.model_dim)  # its input, and the mask of dropout
    copies = widths.product * sum(one.numel() for one in encoder.parameters()) if precision == "bf16" else 0
    assert saved == pytest.approx(sum(part.saved for part in parts) + projection + copies, rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_of_the_pruned_loss(precision: str) -> None:
    training = make_training("finetune", precision=precision)  # type: ignore[arg-type]
    model = dataclasses.replace(training.model, loss="pruned", prune_range=5)  # type: ignore[type-var]
    pruned = dataclasses.replace(training, model=model)
    assert abs(deviation(pruned)) < 0.15
    parameters = training.parameters(), pruned.parameters()
    lattices = [
        step_memory(one, names, gpus=1).most.lattice for one, names in zip((training, pruned), parameters, strict=True)
    ]
    assert lattices[1] < 0.7 * lattices[0]
