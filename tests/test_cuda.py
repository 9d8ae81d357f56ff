"""What a GPU computes is what a CPU computes, and the same bits each time. Run where torch sees a GPU.

In float32 without TF32, so that the differences are those of the order of sums.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models import test_transducer, test_w2vbert
from tests.search import slow
from w2vbert_asr.batch import Batch
from w2vbert_asr.counter_random import draw_keys, gumbel, normal, uniform
from w2vbert_asr.losses.output import LossOutput
from w2vbert_asr.models.language_model import LanguageModel, LanguageModelConfig, LanguageModelSteps
from w2vbert_asr.models.transducer import Transducer
from w2vbert_asr.models.w2vbert import W2VBert
from w2vbert_asr.modules.depthwise import depthwise_conv, triton_works
from w2vbert_asr.search import SearchConfig, search
from w2vbert_asr.training.distributed import World, blocks
from w2vbert_asr.training.numerics import numerics
from w2vbert_asr.training.optimizer import OptimizerConfig, Part, build
from w2vbert_asr.training.run import TrainerConfig
from w2vbert_asr.training.trainer import train
from w2vbert_asr.training.update import Setting, compute_gradients

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
LENGTHS = [400, 161, 230, 388]
BLOCK = dataclasses.replace(test_w2vbert.TINY.encoder.block, model_dim=64, feed_forward_dim=128, kernel_size=5)
ENCODER = dataclasses.replace(test_w2vbert.TINY.encoder, block=BLOCK)


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def w2vbert(dropout: float = 0.0, checkpoint_blocks: bool = False) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    block = dataclasses.replace(BLOCK, dropout=dropout)
    encoder = dataclasses.replace(ENCODER, block=block, checkpoint_blocks=checkpoint_blocks)
    config = dataclasses.replace(test_w2vbert.TINY, encoder=encoder)
    return W2VBert(config, max_steps=100).train(), test_w2vbert.make_batch(LENGTHS)


def transducer(loss: str = "full", dropout: float = 0.0) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    encoder = dataclasses.replace(ENCODER, block=dataclasses.replace(BLOCK, dropout=dropout))
    config = dataclasses.replace(test_transducer.CONFIG, encoder=encoder, loss=loss)  # type: ignore[arg-type]
    return Transducer(config, 7, blank_id=0).train(), test_transducer.make_batch(LENGTHS, [9, 0, 5, 12])


MODELS = {
    "w2vbert": w2vbert,
    "checkpointed": lambda: w2vbert(checkpoint_blocks=True),
    "transducer": transducer,
    "pruned transducer": lambda: transducer("pruned"),
}


def gradients(model: nn.Module, batch: Batch, device: torch.device) -> tuple[LossOutput, dict[str, Tensor]]:
    own = copy.deepcopy(model).to(device)
    output: LossOutput = own(batch.to(device), seed=3, step=7)
    torch.stack([term.weight * term.total / term.count for term in output.terms.values()]).sum().backward()
    return output, {name: parameter.grad for name, parameter in own.named_parameters() if parameter.grad is not None}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm().clamp(min=1e-6))


def test_draws_have_the_same_bits() -> None:
    keys, counters = (draw_keys(1, 2, ("a", "b"), "x", device)[:, None] for device in (CPU, GPU)), torch.arange(10**5)
    on_cpu, on_gpu = keys
    assert torch.equal(uniform(on_cpu, counters), uniform(on_gpu, counters.to(GPU)).cpu())
    for draw in (gumbel, normal):
        torch.testing.assert_close(draw(on_gpu, counters.to(GPU)).cpu(), draw(on_cpu, counters), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_a_cpu(name: str) -> None:
    model, batch = MODELS[name]()
    expected, by_cpu = gradients(model, batch, CPU)
    found, by_gpu = gradients(model, batch, GPU)
    for term, value in expected.terms.items():
        assert float(found.terms[term].total) == pytest.approx(float(value.total), rel=1e-4)
        assert int(found.terms[term].count) == int(value.count)
    for stat, (total, count) in expected.stats.items():
        assert float(found.stats[stat][0]) == pytest.approx(float(total), rel=1e-3, abs=1e-3)
        assert float(found.stats[stat][1]) == pytest.approx(float(count))
    assert by_gpu.keys() == by_cpu.keys()
    for parameter, gradient in by_cpu.items():
        assert relative(by_gpu[parameter], gradient) < 2e-3, parameter


@pytest.mark.parametrize(("frames", "channels", "kernel"), [(70, 80, 5), (33, 64, 15), (20, 10, 31), (1, 3, 3)])
def test_the_depthwise_kernels_are_torchs_convolution(frames: int, channels: int, kernel: int) -> None:
    if not triton_works():
        pytest.skip("Triton does not work here")
    torch.manual_seed(0)
    shapes = [(3, frames, channels), (channels, 1, kernel), (channels,)]
    leaves = [torch.randn(shape, device=GPU).requires_grad_() for shape in shapes]
    above = torch.randn(shapes[0], device=GPU)
    depthwise_conv(*leaves).backward(above)
    found = [leaf.grad for leaf in leaves]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    x, weight, bias = exact
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=kernel // 2, groups=channels).transpose(1, 2)
    y.backward(above.double())
    torch.testing.assert_close(depthwise_conv(*leaves).double(), y, rtol=1e-5, atol=1e-5)
    for gradient, leaf in zip(found, exact, strict=True):
        assert gradient is not None and leaf.grad is not None
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["greedy", "beam", "alsd", "maes"])
def test_searches_find_what_a_cpu_finds(name: str) -> None:
    model = slow.make_model(6, seed=11, blank_bias=2.0)
    encoder_out, lens = slow.encoder_output(12, 30, 1, 21)
    config = SearchConfig(name=name, beam_size=4)  # type: ignore[arg-type]
    expected = search(model, encoder_out, lens, config)
    model.decoder.to(GPU), model.joiner.to(GPU)
    found = search(model, encoder_out.to(GPU), lens.to(GPU), config)
    for own, others in zip(found, expected, strict=True):
        assert [one.tokens for one in own] == [one.tokens for one in others]
        assert [one.times for one in own] == [one.times for one in others]
        for one, other in zip(own, others, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-8)


def updates(model: nn.Module, batch: Batch, bf16: bool, number: int = 3) -> dict[str, Tensor]:
    """The weights after some updates."""
    own = copy.deepcopy(model).to(GPU)
    world = World(device=GPU)
    optimizers = build(own, {"all": Part(config=OptimizerConfig())}, 10)
    setting = Setting(seed=1, bf16=bf16, clip_norm=1.0, world=world)
    with numerics(GPU, bf16):
        for step in range(number):
            optimizers.set_learning_rates(step)
            assert compute_gradients(own, optimizers.parameters, [batch.to(GPU)], step, 0, setting).finite
            optimizers.step()
            optimizers.zero_grad()
    return own.state_dict()


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("make", [w2vbert, transducer, lambda **o: transducer("pruned", **o)], ids=["w", "t", "p"])
def test_an_update_has_the_same_bits_each_time(make, bf16: bool) -> None:  # type: ignore[no-untyped-def]
    model, _ = make(dropout=0.1)
    lengths = [1600, 1461, 630, 1588, 1200, 1000, 900, 800]
    if isinstance(model, W2VBert):
        batch = test_w2vbert.make_batch(lengths)
    else:
        batch = test_transducer.make_batch(lengths, [90, 30, 40, 80, 20, 60, 20, 10])
    first = updates(model, batch, bf16)
    for _ in range(3):
        again = updates(model, batch, bf16)
        assert [name for name, one in first.items() if not torch.equal(one, again[name])] == []


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_blocks_learn_what_the_others_learn(mode: str) -> None:
    model, batch = w2vbert()
    expected, by_plain = gradients(model, batch, GPU)
    own = copy.deepcopy(model).to(GPU)
    for block in blocks(own):
        block.compile(dynamic=True, mode=mode)
    for _ in range(3):  # CUDA graphs are recorded in the second pass
        own.zero_grad()
        output: LossOutput = own(batch.to(GPU), seed=3, step=7)
        torch.stack([term.weight * term.total / term.count for term in output.terms.values()]).sum().backward()
    for term, value in expected.terms.items():
        assert float(output.terms[term].total) == pytest.approx(float(value.total), rel=1e-4)
    for name, parameter in own.named_parameters():
        plain = name.replace("._orig_mod", "")
        if parameter.grad is not None:
            assert relative(parameter.grad, by_plain[plain].cpu()) < 2e-3, name


class Batches:
    """Batches of W2V-BERT by position."""

    digest = hashlib.sha256(b"gpu").hexdigest()

    def iterate(self, start_position: int) -> Iterator[Batch]:
        while True:
            yield test_w2vbert.make_batch([100 + 30 * (start_position % 7), 230, 388], seed=start_position)
            start_position += 1

    def dearest(self) -> Batch:
        return test_w2vbert.make_batch([400, 400, 400])

    def position_to_epoch(self, position: int) -> tuple[int, int]:
        return 0, position


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_goes_on_has_the_bits_of_one_that_was_not_interrupted(tmp_path: Path, precision: str) -> None:
    def run(out: Path, *ends: int) -> dict[str, bytes]:
        for end in ends:
            model, _ = w2vbert(dropout=0.1)
            config = TrainerConfig(
                max_steps=8, save_every=3, eval_every=4, log_every=2, precision=precision, device="cuda", keep=5,  # type: ignore[arg-type]
                tensorboard=False,
            )  # fmt: skip
            source = Batches()
            if end < config.max_steps:
                source.iterate = lambda start, end=end: _until(Batches().iterate(start), end - start)  # type: ignore[method-assign]
            try:
                train(
                    model, source, [test_w2vbert.make_batch([300, 200])], config=config,
                    optimizers={"all": Part(config=OptimizerConfig())}, out=out, resolved={}, world=World(device=GPU),
                )  # fmt: skip
            except _Killed:
                continue
        last = out / "checkpoints" / "step-00000008"
        return {path.name: path.read_bytes() for path in last.iterdir() if path.suffix == ".safetensors"}

    whole, resumed = run(tmp_path / "whole", 8), run(tmp_path / "resumed", 4, 7, 8)
    assert whole.keys() == resumed.keys() and len(whole) >= 2
    assert [name for name in whole if whole[name] != resumed[name]] == []


class _Killed(Exception):
    pass


def _until(batches: Iterator[Batch], number: int) -> Iterator[Batch]:
    for _ in range(number):
        yield next(batches)
    raise _Killed


def test_a_language_model_gives_what_it_gives_on_a_cpu() -> None:
    torch.manual_seed(0)
    config = LanguageModelConfig(num_layers=3, model_dim=16, num_heads=2, feed_forward_dim=32)
    model, tokens = LanguageModel(config, 11, 0).eval(), torch.tensor([1])

    def log_probs(device: torch.device) -> Tensor:
        steps = LanguageModelSteps(copy.deepcopy(model).to(device))
        return steps.log_probs(steps.advance(steps.start(), tokens.to(device))).cpu()

    torch.testing.assert_close(log_probs(GPU), log_probs(CPU), rtol=1e-4, atol=1e-4)
