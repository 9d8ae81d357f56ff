"""Optimizers against torch's own and against the paper's algorithm written as a loop; parts, freezing, state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.training.adafactor import Adafactor
from w2vbert_asr.training.optimizer import OptimizerConfig, Part, build, freeze


def small_model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def loss(model: nn.Module, step: int) -> torch.Tensor:
    torch.manual_seed(step)
    return model(torch.randn(4, 5)).square().sum()  # type: ignore[no-any-return]


def test_adamw_equals_torch_with_decay_on_matrices_only() -> None:
    ours, theirs = small_model(), small_model()
    config = OptimizerConfig(peak_lr=0.01, weight_decay=0.3, schedule="constant", warmup_steps=1)
    optimizers = build(ours, {"all": Part(config=config)}, max_steps=10)
    matrices = [theirs[0].weight, theirs[2].weight]
    others = [theirs[0].bias, theirs[1].weight, theirs[1].bias, theirs[2].bias]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=False,
        foreach=False,
    )
    for step in range(6):
        assert optimizers.set_learning_rates(step) == {"lr": 0.01}
        for model, optimizer in ((ours, optimizers), (theirs, plain)):
            optimizer.zero_grad()
            loss(model, step).backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_adafactor_leaves_a_row_without_gradients_alone() -> None:
    """As those of word pieces that a batch has not; the product of its row and column would underflow."""
    torch.manual_seed(0)
    embedding = nn.Parameter(torch.randn(3, 4))
    start = embedding.detach().clone()
    optimizer = Adafactor([embedding], lr=0.1)
    for _ in range(3):
        embedding.grad = 1e-8 * torch.randn(3, 4)
        embedding.grad[1] = 0.0
        optimizer.step()
    assert torch.equal(embedding[1], start[1])
    assert embedding.isfinite().all() and (embedding[[0, 2]] != start[[0, 2]]).all()


def test_adafactor_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    start = {"matrix": rng.standard_normal((3, 4)), "vector": rng.standard_normal(5)}
    tensors = {name: nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    optimizer = Adafactor(tensors.values(), lr=0.1, betas=(0.9, 0.98), weight_decay=0.2)
    slow = {name: value.copy() for name, value in start.items()}
    second = {name: np.zeros_like(value) for name, value in start.items()}
    rows, columns = np.zeros(3), np.zeros(4)
    first = {name: np.zeros_like(value) for name, value in start.items()}
    for step in range(1, 5):
        for name, tensor in tensors.items():
            grad = rng.standard_normal(start[name].shape) * 10.0 ** (step - 2)
            tensor.grad = torch.tensor(grad)
            square = grad**2 + 1e-30
            if name == "matrix":  # algorithm 4: sums of rows and columns, their outer product over the sum of all
                rows = 0.98 * rows + 0.02 * np.array([sum(square[i, j] for j in range(4)) for i in range(3)])
                columns = 0.98 * columns + 0.02 * np.array([sum(square[i, j] for i in range(3)) for j in range(4)])
                estimate = np.outer(rows, columns) / rows.sum()
            else:
                second[name] = 0.98 * second[name] + 0.02 * square
                estimate = second[name]
            update = grad / np.sqrt(estimate / (1.0 - 0.98**step))
            update /= max(1.0, np.sqrt(np.mean(update**2)))
            first[name] = 0.9 * first[name] + 0.1 * update
            slow[name] = slow[name] * (1.0 - 0.1 * 0.2) - 0.1 * first[name]
        optimizer.step()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor.detach().numpy(), slow[name], rtol=1e-6)


def test_the_longest_prefix_wins_and_parts_have_their_own_rates() -> None:
    constant = OptimizerConfig(peak_lr=1.0, schedule="constant", warmup_steps=1)
    slow = OptimizerConfig(peak_lr=0.5, schedule="constant", warmup_steps=1)
    parts = {"body": Part(config=constant, prefixes=("0.", "1.")), "rest": Part(config=slow)}
    optimizers = build(small_model(), parts, max_steps=10)
    assert list(optimizers.names["body"]) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert list(optimizers.names["rest"]) == ["2.weight", "2.bias"]
    assert optimizers.set_learning_rates(3) == {"lr_body": 1.0, "lr_rest": 0.5}


def test_freezing_and_what_has_no_home() -> None:
    model = small_model()
    assert freeze(model, ["0."]) == ["0.weight", "0.bias"]
    config = OptimizerConfig()
    assert "0.weight" not in build(model, {"all": Part(config=config)}, 10).names["all"]
    with pytest.raises(ConfigError, match=r"1\.weight: belongs to no optimizer"):
        build(model, {"some": Part(config=config, prefixes=("2.",))}, 10)
    with pytest.raises(ConfigError, match="frozen: no trainable parameter begins with"):
        build(model, {"frozen": Part(config=config, prefixes=("0.",)), "rest": Part(config=config)}, 10)
    with pytest.raises(ConfigError, match="no parameter begins with 'encodr'"):
        freeze(model, ["encodr"])


@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor"])
def test_state_survives_and_what_does_not_fit_is_named(name: str) -> None:
    config = OptimizerConfig(name=name, warmup_steps=1)  # type: ignore[arg-type]
    model = small_model()
    optimizers = build(model, {"all": Part(config=config)}, 10)
    loss(model, 0).backward()
    optimizers.step()
    state = {key: value.clone() for key, value in optimizers.state().items()}
    other = build(small_model(), {"all": Part(config=config)}, 10)
    assert all(key.endswith("/none") for key in other.state())
    other.load_state(state, "here")
    restored = other.state()
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[key], value) for key, value in state.items())
    del state["2.weight/step"]
    missing = {key: value for key, value in state.items() if not key.startswith("1.bias/")}
    with pytest.raises(DataError, match=r"(?s)1\.bias: its state is missing.*2\.weight: found"):
        other.load_state(missing, "here")
