"""Sharded training (FSDP2) of two ranks gives what replicated training (DDP) gives, and is resumed to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training import toy
from tests.training.runs import call_ranks, differences, finish, start_ranks, steps_of
from w2vbert_asr.training import checkpoint
from w2vbert_asr.training.distributed import World


class Stacked(toy.ToyModel):
    """With blocks that are sharded one by one, a matrix for Adafactor, and an odd number of rows."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.blocks = nn.ModuleList(nn.Linear(toy.DIM, toy.DIM) for _ in range(3))
        self.odd = nn.Linear(toy.DIM, 7)

    def forward(self, batch, seed, step):  # type: ignore[no-untyped-def]
        output = super().forward(batch, seed, step)
        x = batch.feats
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        term = output.terms["frame"]
        more = (self.odd(x).square().mean(-1) * (batch.feats[:, :, 0] != 0)).sum()
        output.terms["frame"] = type(term)(term.total + 0.1 * more, term.count, term.weight)
        return output


def train(exp: Path, world: World, parallel: str) -> None:
    toy.run(exp, Stacked(), world, parallel=parallel, max_steps=12, accumulate=2)


def test_sharded_equals_replicated(tmp_path: Path) -> None:
    for parallel in ("ddp", "fsdp"):
        assert call_ranks(lambda world, p=parallel: train(tmp_path / p, world, p)) == [0, 0]
    ddp, fsdp = (checkpoint.load(checkpoint.newest(tmp_path / parallel)) for parallel in ("ddp", "fsdp"))
    assert fsdp.model.keys() == ddp.model.keys() and fsdp.optimizer.keys() == ddp.optimizer.keys()
    for one, other in ((fsdp.model, ddp.model), (fsdp.optimizer, ddp.optimizer)):
        for name, wanted in other.items():
            torch.testing.assert_close(one[name], wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_sharded_runs_are_resumed_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call_ranks(lambda world: train(tmp_path / "whole", world, "fsdp")) == [0, 0]
    fault = {"FAULT": "checkpoint.after_rename:kill:2"}
    ranks = start_ranks(lambda world: train(tmp_path / "killed", world, "fsdp"), environment=fault)
    codes = [finish(rank) for rank in ranks]
    assert codes[0] < 0 and steps_of(tmp_path / "killed") != []
    assert call_ranks(lambda world: train(tmp_path / "killed", world, "fsdp")) == [0, 0]
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
