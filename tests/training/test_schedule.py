"""Learning rates worked out by hand."""

from __future__ import annotations

import pytest

from w2vbert_asr.training.optimizer import OptimizerConfig
from w2vbert_asr.training.schedule import ScheduleName


def rates(schedule: ScheduleName, steps: list[int], **changes: float) -> list[float]:
    settings = {"peak_lr": 2.0, "warmup_steps": 4, "floor_share": 0.1, **changes}
    config = OptimizerConfig(schedule=schedule, **settings)  # type: ignore[arg-type]
    return [config.learning_rate(step, max_steps=12) for step in steps]


def test_all_warm_up_linearly() -> None:
    for schedule in ("transformer", "cosine", "linear", "constant"):
        assert rates(schedule, [0, 1, 2, 3]) == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_transformer_falls_with_the_inverse_square_root() -> None:
    assert rates("transformer", [15, 35]) == pytest.approx([2.0 * (4 / 16) ** 0.5, 2.0 * (4 / 36) ** 0.5])


def test_cosine_and_linear_end_at_the_floor() -> None:
    # Update 8 is half way between update 4 and update 12.
    assert rates("cosine", [7, 11, 50]) == pytest.approx([0.2 + 1.8 * 0.5, 0.2, 0.2])
    assert rates("linear", [5, 7, 11]) == pytest.approx([0.2 + 1.8 * 0.75, 0.2 + 1.8 * 0.5, 0.2])
    # A quarter of the way: (1 + cos 45 degrees) / 2.
    assert rates("cosine", [5]) == pytest.approx([0.2 + 1.8 * 0.8535533905932737])


def test_constant_stays() -> None:
    assert rates("constant", [4, 11]) == [2.0, 2.0]


def test_warmup_share_delay_and_no_warmup() -> None:
    by_share = OptimizerConfig(peak_lr=1.0, schedule="constant", warmup_share=0.25)
    assert [by_share.learning_rate(step, max_steps=16) for step in (0, 3, 4)] == [0.25, 1.0, 1.0]
    delayed = OptimizerConfig(peak_lr=1.0, schedule="constant", warmup_steps=2, delay_steps=3)
    assert [delayed.learning_rate(step, max_steps=10) for step in range(6)] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    assert rates("transformer", [0, 3], warmup_steps=0) == [2.0, 1.0]
