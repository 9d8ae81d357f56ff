"""What of the lattice exists at a time in the joint loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.losses.test_transducer import gradients, joint_problem, limits
from tests.planning.live_tensors import LiveTensors
from w2vbert_asr.losses.transducer import joint_transducer_loss


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_the_lattice_of_the_batch_never_exists() -> None:
    torch.manual_seed(8)
    leaves, rest = joint_problem([10, 12, 11, 9], [5, 6, 7, 6], 100, 4)
    largest_utterance = 11 * 8 * 100
    for group_bytes, expected in [(1, largest_utterance), (1 << 30, (60 + 84 + 88 + 63) * 100)]:
        with LargestTensor() as seen:
            own = limits(group_bytes)
            gradients(lambda *x: joint_transducer_loss(*x, *rest, limits=own), leaves, torch.ones(4))  # noqa: B023
        assert seen.numel == expected


def test_memory_is_bounded_where_one_utterance_is_huge() -> None:
    torch.manual_seed(12)
    leaves, rest = joint_problem([60], [30], 200, 4)
    peaks = []
    for kept_bytes in (1 << 30, 0):
        with LiveTensors([]) as live, LargestTensor() as seen:
            joint_transducer_loss(*leaves, *rest, limits=limits(1 << 20, kept_bytes, 20_000)).sum().backward()
        peaks.append((seen.numel, live.peak))
    assert peaks[0][0] == 60 * 31 * 200 and peaks[0][1] > 4 * 60 * 31 * 200
    assert peaks[1][0] == 20_000 and peaks[1][1] < 4 * (4 * 20_000) + 60 * 31 * 150  # a few chunks, and the cells
