"""Sums and counts add up, over micro-batches and over a checkpoint between two log lines."""

from __future__ import annotations

import torch

from w2vbert_asr.losses.output import LossOutput, LossTerm
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.metrics import Sums, means

CPU = torch.device("cpu")


def output(total: float, count: float, weight: float) -> LossOutput:
    term = LossTerm(torch.tensor(total), torch.tensor(count), weight)
    return LossOutput({"ctc": term}, {"accuracy": (torch.tensor(3), torch.tensor(4))})


def test_the_loss_follows_weights_that_change() -> None:
    sums = Sums(CPU)
    sums.add_output(output(8.0, 2.0, 0.5))
    sums.add_output(output(2.0, 3.0, 1.0))
    sums.add("grad_norm", 2.5, 1.0)
    wanted = {"loss": (8.0 * 0.5 + 2.0) / 5.0, "accuracy": 0.75, "ctc": 2.0, "grad_norm": 2.5}
    found = sums.take(World())
    assert found == wanted and list(found) == list(wanted)
    assert sums.take(World()) == {}


def test_sums_go_on_from_their_state_to_the_bit() -> None:
    whole, first, second = Sums(CPU), Sums(CPU), Sums(CPU)
    parts = [output(0.1 * i, 0.3, 0.7) for i in range(10)]
    for part in parts:
        whole.add_output(part)
    for part in parts[:4]:
        first.add_output(part)
    second.load_state(first.state())
    for part in parts[4:]:
        second.add_output(part)
    assert second.take(World()) == whole.take(World())


def test_ranks_add_and_what_has_no_count_is_left_out() -> None:
    assert means([{"a": (1.0, 2.0), "b": (5.0, 0.0)}, {"a": (4.0, 2.0)}]) == {"a": 1.25}
