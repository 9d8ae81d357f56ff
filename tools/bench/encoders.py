"""What pretrain.py measures: our whole update, and the encoders of others behind our front end.

The sizes stand in the case; the front end has 64 channels.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import isolated

CHANNELS, RATE, MEL_BINS = 64, 16000, 80
MATRIX = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one process measures: `model` is a key of NAMES, or peak."""

    model: str
    precision: str
    items: int = 8
    seconds: int = 12
    dim: int = 256
    layers: int = 12
    heads: int = 4
    kernel: int = 31
    device: str = "cpu"
    compile: bool = False
    peer_dropout: float = 0.0
    repeats: int = 3
    warm: int = 4  # a process faults its memory in during the first steps

    def key(self) -> str:
        return json.dumps(asdict(self))


def feature_batch(case: Case) -> Any:
    """Filterbanks of noise, normalised."""
    import torch

    from w2vbert_asr.batch import Batch
    from w2vbert_asr.features.fbank import fbank

    waves = waveforms(case)
    feats = torch.stack([fbank(wave, RATE, MEL_BINS) for wave in waves])
    feats = (feats - feats.mean((0, 1))) / feats.std((0, 1))
    none = torch.zeros(case.items, dtype=torch.int64)
    batch = Batch(
        feats=feats,
        feat_lens=torch.full((case.items,), feats.shape[1]),
        tokens=none[:, None][:, :0],
        token_lens=none,
        utt_ids=tuple(f"utt{index}" for index in range(case.items)),
    )
    return batch.to(case.device)


def waveforms(case: Case) -> Any:
    """(B, N) samples; 240 more than whole frames, for the last window."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(case.items, case.seconds * RATE + 240, generator=generator)


def ours(case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
    """A whole update, and its forward pass."""
    import torch

    from w2vbert_asr.models.encoder import EncoderConfig
    from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
    from w2vbert_asr.modules.conformer import ConformerConfig
    from w2vbert_asr.modules.subsampling import SubsamplingConfig
    from w2vbert_asr.training.distributed import World, blocks
    from w2vbert_asr.training.optimizer import OptimizerConfig, Part
    from w2vbert_asr.training.update import Setting

    block = ConformerConfig(
        model_dim=case.dim, num_heads=case.heads, feed_forward_dim=4 * case.dim, kernel_size=case.kernel, dropout=0.1
    )
    subsampling = SubsamplingConfig(num_mel_bins=MEL_BINS, channels=CHANNELS)
    encoder = EncoderConfig(num_layers=case.layers, subsampling=subsampling, block=block)
    config = W2VBertConfig(encoder=encoder, contrastive_layers=case.layers // 2)
    model = W2VBert(config, max_steps=1000).to(case.device).train()
    for block in blocks(model) if case.compile else ():
        block.compile(dynamic=True)
    world, batch = World(device=torch.device(case.device)), feature_batch(case)
    setting = Setting(seed=1, bf16=case.precision == "bf16", clip_norm=1.0, world=world)
    update = whole_update(model, {"all": Part(config=OptimizerConfig())}, [batch], setting, 1000)
    return update, lambda: model(batch, seed=1, step=0)


def whole_update(
    model: Any, parts: Any, batches: Sequence[Any], setting: Any, max_steps: int, deterministic: bool = True
) -> Callable[[], None]:
    """What training/ does in an update, on the batches in turns."""
    from w2vbert_asr.training import optimizer
    from w2vbert_asr.training.numerics import numerics
    from w2vbert_asr.training.update import compute_gradients, snapshot

    optimizers, steps = optimizer.build(model, parts, max_steps), itertools.count()

    def update() -> None:
        step = next(steps)
        with numerics(setting.world.device, setting.bf16, deterministic):
            snapshot(model)
            optimizers.set_learning_rates(step)
            batch = batches[step % len(batches)]
            assert compute_gradients(model, optimizers.parameters, [batch], step, 0, setting).finite
            optimizers.step()
            optimizers.zero_grad()

    return update


def behind_our_front_end(case: Case, encode: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """`encode(x, lens)` of our features, forward and backward, and forward alone. parts: modules to train."""
    import torch
    from torch import nn

    from w2vbert_asr.modules.subsampling import Subsampling, SubsamplingConfig

    front = Subsampling(SubsamplingConfig(num_mel_bins=MEL_BINS, channels=CHANNELS))
    projection = nn.Linear(front.output_dim, case.dim)
    model = nn.ModuleList([front, projection, *parts]).to(case.device).train()
    for stack in model.modules() if case.compile else ():
        for block in stack if isinstance(stack, nn.ModuleList) and stack is not model else ():
            block.compile(dynamic=True)
    batch = feature_batch(case)

    def forward() -> Any:
        features, lens = front(batch.feats, batch.feat_lens)
        return encode(projection(features), lens)

    def step() -> None:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            output = forward()
        output.float().mean().backward()
        model.zero_grad(set_to_none=True)

    return step, forward


def espnet(case: Case) -> Any:
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    encoder = ConformerEncoder(
        input_size=case.dim, output_size=case.dim, attention_heads=case.heads, linear_units=4 * case.dim,
        num_blocks=case.layers, dropout_rate=case.peer_dropout, positional_dropout_rate=case.peer_dropout,
        input_layer=None, macaron_style=True, rel_pos_type="latest", pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn", activation_type="swish", use_cnn_module=True,
        cnn_module_kernel=case.kernel,
    )  # fmt: skip
    return behind_our_front_end(case, lambda x, lens: encoder(x, lens)[0], [encoder])


def torchaudio(case: Case) -> Any:
    from torchaudio.models import Conformer

    encoder = Conformer(
        input_dim=case.dim, num_heads=case.heads, ffn_dim=4 * case.dim, num_layers=case.layers,
        depthwise_conv_kernel_size=case.kernel, dropout=case.peer_dropout,
    )  # fmt: skip
    return behind_our_front_end(case, lambda x, lens: encoder(x, lens)[0], [encoder])


def transformers(case: Case) -> Any:
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    dropout = case.peer_dropout
    config = Wav2Vec2BertConfig(
        feature_projection_input_dim=case.dim, hidden_size=case.dim, num_hidden_layers=case.layers,
        num_attention_heads=case.heads, intermediate_size=4 * case.dim, conv_depthwise_kernel_size=case.kernel,
        layerdrop=0.0, apply_spec_augment=False, mask_time_prob=0.0, hidden_dropout=dropout, activation_dropout=dropout,
        conformer_conv_dropout=dropout, feat_proj_dropout=dropout,
    )  # fmt: skip
    encoder = Wav2Vec2BertModel(config)
    return behind_our_front_end(case, lambda x, lens: encoder(x).last_hidden_state, [encoder])


def transformers_pretraining(case: Case) -> Any:
    import torch
    from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    dropout = case.peer_dropout
    config = Wav2Vec2ConformerConfig(
        hidden_size=case.dim, num_hidden_layers=8, num_attention_heads=case.heads, intermediate_size=4 * case.dim,
        conv_depthwise_kernel_size=case.kernel, layerdrop=0.0, hidden_dropout=dropout, activation_dropout=dropout,
        attention_dropout=0.0, conformer_conv_dropout=dropout, feat_proj_dropout=dropout,
        feat_quantizer_dropout=dropout,
    )  # fmt: skip
    model = Wav2Vec2ConformerForPreTraining(config).to(case.device).train()
    waves = waveforms(case).to(case.device)
    frames = int(model._get_feat_extract_output_lengths(waves.shape[1]))

    def forward() -> Any:
        mask = _compute_mask_indices((case.items, frames), mask_prob=0.65, mask_length=10)
        negatives = _sample_negative_indices((case.items, frames), config.num_negatives, mask_time_indices=mask)
        drawn = {"mask_time_indices": mask, "sampled_negative_indices": negatives}
        return model(waves, **{name: torch.from_numpy(one).to(case.device) for name, one in drawn.items()}).loss

    def step() -> None:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = forward()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step, forward


MODELS: dict[str, Callable[[Case], Any]] = {
    "ours": ours,
    "espnet": espnet,
    "torchaudio": torchaudio,
    "transformers": transformers,
    "transformers_pretraining": transformers_pretraining,
}


def peak(case: Case) -> dict[str, Any]:
    """GFLOP a second of the fastest of many products of two square matrices."""
    import torch

    dtype, size = torch.bfloat16 if case.precision == "bf16" else torch.float32, MATRIX[case.device]
    draws = (torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    a, b = (matrix.to(case.device, dtype) for matrix in draws)
    out = torch.empty_like(a)
    seconds = [isolated.seconds_of(lambda: torch.mm(a, b, out=out), case.device) for _ in range(30)]
    return {"gflops": 2 * size**3 / min(seconds) / 1e9}


def run_case(case: Case) -> dict[str, Any]:
    """Seconds and MB of a step, and its GFLOP."""
    import torch

    from w2vbert_asr.allocator import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    if case.model == "peak":
        return peak(case)
    step, _ = MODELS[case.model](replace(case, items=1, seconds=2))
    step()
    gflop = count_gflop(case)
    step, _ = MODELS[case.model](case)
    return {**isolated.time_and_memory(step, case.repeats, case.warm, case.device), "gflop": gflop}


def count_gflop(case: Case) -> float | None:
    """GFLOP of a step, of a forward pass in float32 with attention written out; None where it cannot be counted."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    _, forward = MODELS[case.model](replace(case, items=1, precision="fp32", compile=False))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward()
    return 3e-9 * case.items * counter.get_total_flops()
