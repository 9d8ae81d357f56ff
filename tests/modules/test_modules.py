"""Building blocks against torch's own, and against what padding must not do."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from w2vbert_asr.batch import lengths_to_pad_mask
from w2vbert_asr.counter_random import gumbel, normal, to_unit_interval, uniform
from w2vbert_asr.modules import attention
from w2vbert_asr.modules.attention import SelfAttention, attend
from w2vbert_asr.modules.batch_norm import MaskedBatchNorm
from w2vbert_asr.modules.conformer import ConformerBlock, ConformerConfig
from w2vbert_asr.modules.depthwise import depthwise_conv
from w2vbert_asr.modules.dropout import Dropout
from w2vbert_asr.modules.quantizer import GumbelQuantizer, QuantizerConfig
from w2vbert_asr.modules.subsampling import Subsampling, SubsamplingConfig


def test_masked_batch_norm_equals_torchs_on_the_valid_frames() -> None:
    ours, theirs = MaskedBatchNorm(6), nn.BatchNorm1d(6)
    x = torch.randn(3, 10, 6) * 3 + 1
    pad_mask = lengths_to_pad_mask(torch.tensor([10, 4, 7]), 10)
    y = ours(x, pad_mask)
    expected = theirs(x[~pad_mask])
    torch.testing.assert_close(y[~pad_mask], expected, atol=1e-5, rtol=1e-5)
    assert not y[pad_mask].any()
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var, atol=1e-5, rtol=1e-5)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, pad_mask)[~pad_mask], theirs(x[~pad_mask]), atol=1e-5, rtol=1e-5)


def test_attention_equals_the_formula() -> None:
    module = SelfAttention(8, 2, 0.0).eval()
    x = torch.randn(2, 5, 8)
    lens = torch.tensor([5, 3])
    out = module(x, lengths_to_pad_mask(lens, 5))
    for row, length in enumerate(lens.tolist()):
        query, key, value = module.qkv(module.norm(x[row, :length])).chunk(3, dim=-1)
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            weights = torch.softmax(query[:, part] @ key[:, part].T / 2.0, dim=-1)
            heads.append(weights @ value[:, part])
        torch.testing.assert_close(out[row, :length], module.output(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


def test_a_block_alone_and_padded_gives_the_same() -> None:
    for norm in ("layer", "batch"):
        config = ConformerConfig(model_dim=16, num_heads=2, feed_forward_dim=32, kernel_size=5, conv_norm=norm)  # type: ignore[arg-type]
        block = ConformerBlock(config).eval()
        x = torch.randn(1, 9, 16)
        alone = block(x, torch.zeros(1, 9, dtype=torch.bool))
        padded = block(torch.cat([x, torch.randn(1, 6, 16)], 1), lengths_to_pad_mask(torch.tensor([9]), 15))
        torch.testing.assert_close(padded[:, :9], alone, atol=1e-5, rtol=1e-5)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    module = Dropout(0.3)
    x = torch.ones(1001, 257, requires_grad=True)
    y = module(x)
    assert abs(float((y == 0).float().mean()) - 0.3) < 0.005
    assert abs(float(y.mean()) - 1.0) < 0.005
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert module.eval()(x) is x


def test_dropout_is_independent_between_neighbours() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) > 0).float() - 0.5
    for shift in (1, 2, 3, 4):
        assert abs(float((kept[:-shift] * kept[shift:]).mean())) < 0.002
    for place in range(8):  # each byte of a 64-bit draw is fair
        assert abs(float(kept[place::8].mean())) < 0.007


def test_no_draw_is_0_or_1() -> None:
    ends = to_unit_interval(torch.tensor([0, 2**23 - 1]))
    assert float(ends[0]) > 0.0 and float(ends[1]) < 1.0


def test_counter_draws_have_their_distributions() -> None:
    keys, counters = torch.tensor([[3], [4]]), torch.arange(200_000)[None]
    u = uniform(keys, counters)
    assert float(u.min()) > 0.0 and float(u.max()) < 1.0
    assert abs(float(u.mean()) - 0.5) < 0.002 and abs(float(u.var()) - 1 / 12) < 0.001
    assert abs(float(((u[0] - 0.5) * (u[1] - 0.5)).mean())) < 0.001
    assert abs(float(((u[0, 1:] - 0.5) * (u[0, :-1] - 0.5)).mean())) < 0.001
    assert abs(float(normal(keys, counters).std()) - 1.0) < 0.005
    assert abs(float(gumbel(keys, counters).mean()) - 0.5772) < 0.01


def test_quantizer_samples_follow_the_softmax() -> None:
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(4, QuantizerConfig(num_codes=5, code_dim=6)).train()
    features = torch.randn(1, 1, 4).expand(1, 20_000, 4)
    quantized = quantizer(features, torch.zeros(1, 20_000, dtype=torch.bool), ("u",), 0, 0, temperature=2.0)
    shares = torch.bincount(quantized.sampled_ids.flatten(), minlength=5) / 20_000
    torch.testing.assert_close(shares, torch.softmax(quantized.logits[0, 0, 0], -1).detach(), atol=0.015, rtol=0)
    vectors = quantizer.vectors(quantized.choice)
    torch.testing.assert_close(vectors[0, :9], quantizer.codebook[0][quantized.sampled_ids[0, :9, 0]])


def test_quantizer_gradient_is_that_of_the_soft_choice() -> None:
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(
        4, QuantizerConfig(num_codes=5, code_dim=6, num_codebooks=2, input_norm="batch")
    ).eval()  # no noise
    features = torch.randn(1, 3, 4, requires_grad=True)
    weights = torch.randn(1, 3, 2, 5)
    pad_mask = torch.zeros(1, 3, dtype=torch.bool)
    (quantizer(features, pad_mask, ("u",), 0, 0, 0.7).choice * weights).sum().backward()
    hard = features.grad.clone()
    features.grad = None
    soft = torch.softmax(quantizer.logits(quantizer.norm(features, pad_mask)).unflatten(-1, (2, 5)) / 0.7, -1)
    (soft * weights).sum().backward()
    torch.testing.assert_close(hard, features.grad)


def test_quantizer_uses_many_codes_from_the_start_whatever_frames_have_in_common() -> None:
    used = {}
    for norm in ("none", "batch"):
        torch.manual_seed(0)
        quantizer = GumbelQuantizer(32, QuantizerConfig(num_codes=64, code_dim=8, input_norm=norm)).train()
        features = torch.randn(2, 500, 32) * torch.rand(32) + 3.0 * torch.randn(32)
        pad_mask = torch.zeros(2, 500, dtype=torch.bool)
        pad_mask[1, 300:] = True
        features[pad_mask] = 1e3  # never looked at
        ids = quantizer(features, pad_mask, ("u", "v"), 0, 0, 2.0).ids[~pad_mask]
        used[norm] = len(ids.unique())
    assert used["none"] < 16 and used["batch"] > 48


def test_temperature_falls_geometrically_over_its_share() -> None:
    quantizer = GumbelQuantizer(4, QuantizerConfig(temperature_start=2.0, temperature_end=0.5, temperature_share=0.5))
    found = [quantizer.temperature(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert [round(value, 6) for value in found] == [2.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_frames", [8, 9])
def test_attention_and_its_gradients_equal_the_formula_whatever_the_kernel(
    dtype: torch.dtype, max_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_FRAMES_WRITTEN_OUT", max_frames)
    torch.manual_seed(0)
    qkv = torch.randn(3, 9, 3, 4, 8, dtype=dtype, requires_grad=True)
    lens = [9, 4, 1]
    pad_mask = lengths_to_pad_mask(torch.tensor(lens), 9)
    weights = torch.randn(3, 9, 4, 8)
    attend(qkv, pad_mask).float().mul(weights).masked_fill(pad_mask[:, :, None, None], 0.0).sum().backward()

    exact = qkv.detach().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for item, length in enumerate(lens):
        for head in range(4):
            query, key, value = exact[item, :length, :, head].unbind(1)
            context = torch.softmax(query @ key.T / math.sqrt(8), dim=-1) @ value
            total = total + (context * weights[item, :length, head]).sum()
    total.backward()
    assert qkv.grad is not None and exact.grad is not None
    assert not qkv.grad[pad_mask].any()
    error = (qkv.grad - exact.grad).norm() / exact.grad.norm()
    assert float(error) < (0.02 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("max_frames", [0, 1024])
def test_attention_in_bfloat16_sees_small_differences_between_frames(
    monkeypatch: pytest.MonkeyPatch, max_frames: int
) -> None:
    """Keys and values that have twenty times more in common than apart: gradients as good as without that."""
    monkeypatch.setattr(attention, "MAX_FRAMES_WRITTEN_OUT", max_frames)
    qkv = torch.randn(3, 40, 3, 4, 16)
    qkv[:, :, 1:] += 20 * torch.randn(3, 1, 2, 4, 16)
    qkv, grad = qkv.bfloat16(), torch.randn(3, 40, 4, 16).bfloat16()
    pad_mask = lengths_to_pad_mask(torch.tensor([40, 25, 31]), 40)
    grad[pad_mask] = 0.0
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        x = qkv.to(dtype).requires_grad_()
        out = attend(x, pad_mask)
        (of_x,) = torch.autograd.grad(out, x, grad.to(dtype))
        found.append((out.detach()[~pad_mask].double(), *of_x.double().unbind(2)))
    for exact, one in zip(*found, strict=True):
        assert (one - exact).norm() < 0.02 * exact.norm()


def test_attention_in_bfloat16_passes_over_an_item_of_padding_only() -> None:
    qkv = torch.randn(2, 5, 3, 2, 4, dtype=torch.bfloat16, requires_grad=True)
    context = attend(qkv, lengths_to_pad_mask(torch.tensor([0, 5]), 5))
    context.sum().backward()
    assert not context[0].any() and context[1].all()
    assert qkv.grad is not None and qkv.grad.isfinite().all() and not qkv.grad[0].any()


@pytest.mark.parametrize("kernel", [1, 3, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_depthwise_convolution_and_its_gradients_equal_torchs(dtype: torch.dtype, kernel: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 6, kernel, padding=kernel // 2, groups=6).to(dtype)
    x = torch.randn(3, 11, 6, dtype=dtype, requires_grad=True)
    weights = torch.randn(3, 11, 6)
    given = (x, conv.weight, conv.bias)
    y = depthwise_conv(x, conv.weight, conv.bias)
    found = torch.autograd.grad((y.float() * weights).sum(), given)

    exact = [one.detach().double().requires_grad_() for one in given]
    slow = torch.zeros(3, 11, 6, dtype=torch.float64)
    padded = nn.functional.pad(exact[0], (0, 0, kernel // 2, kernel // 2))
    for place in range(kernel):
        slow = slow + padded[:, place : place + 11] * exact[1][:, 0, place]
    slow = slow + exact[2]
    expected = torch.autograd.grad((slow * weights).sum(), exact)
    tolerance = 0.01 if dtype == torch.bfloat16 else 1e-6
    assert float((y - slow).norm() / slow.norm()) < tolerance
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


def test_depthwise_convolution_returns_on_two_threads() -> None:
    """With frames along the width, oneDNN never returned for two of these shapes; the tests run on one thread."""
    code = """
import torch
from w2vbert_asr.modules.depthwise import depthwise_conv
for batch, frames in ((5, 400), (3, 400), (1, 400), (4, 600), (7, 250)):
    x = torch.randn(batch, frames, 144).bfloat16().requires_grad_()
    weight, bias = torch.randn(144, 1, 15, requires_grad=True), torch.randn(144, requires_grad=True)
    depthwise_conv(x, weight, bias).sum().backward()
"""
    two = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], env=two, timeout=120, check=True, cwd=Path(__file__).parents[2])


def test_depthwise_convolution_with_frozen_weights() -> None:
    x, weight = torch.randn(2, 5, 3, requires_grad=True), torch.randn(3, 1, 3)
    depthwise_conv(x, weight, torch.zeros(3)).sum().backward()
    assert x.grad is not None and x.grad.any()


def test_feature_encoder_in_bfloat16_equals_the_one_in_float32_to_its_rounding() -> None:
    torch.manual_seed(0)
    module = Subsampling(SubsamplingConfig(num_mel_bins=20, channels=8))
    feats, lens = torch.randn(3, 50, 20), torch.tensor([50, 31, 7])
    found = []
    for in_bf16 in (False, True):
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bf16):
            features, feature_lens = module(feats, lens)
        assert feature_lens.tolist() == [13, 8, 2]
        valid = ~lengths_to_pad_mask(feature_lens, 13)
        (features.float()[valid] ** 3).sum().backward()
        found.append([features[valid].detach(), *(parameter.grad for parameter in module.parameters())])
    for exact, rounded in zip(*found, strict=True):
        assert float((exact - rounded.float()).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_what_its_draws_say(dtype: torch.dtype) -> None:
    x = torch.randn(7, 9, 3).to(dtype)
    torch.manual_seed(3)
    y = Dropout(0.25)(x)
    torch.manual_seed(3)
    words = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw(24).tolist()
    levels = [(word >> shift) & 0xFF for word in words for shift in range(0, 64, 8)]
    kept = [(level - 0x100 if level >= 0x80 else level) >= 0x40 - 0x80 for level in levels[: x.numel()]]
    expected = x * torch.tensor(kept).view(x.shape).to(dtype) * torch.tensor(4 / 3, dtype=dtype)
    torch.testing.assert_close(y, expected, rtol=0.01 if dtype == torch.bfloat16 else 1e-6, atol=0)
