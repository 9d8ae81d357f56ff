"""A toy model and loader, and a command that trains them: `python -m tests.training.toy OUT [CHANGES]`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from w2vbert_asr.batch import Batch, lengths_to_pad_mask
from w2vbert_asr.errors import UserError
from w2vbert_asr.losses.output import LossOutput, LossTerm
from w2vbert_asr.modules.batch_norm import MaskedBatchNorm
from w2vbert_asr.training.distributed import World, open_world
from w2vbert_asr.training.evaluation import Measure
from w2vbert_asr.training.optimizer import OptimizerConfig, Part
from w2vbert_asr.training.run import TrainerConfig
from w2vbert_asr.training.trainer import TrainResult, train

DIM = 6


def make_batch(number: int, size: int = 4) -> Batch:
    """A batch that is a function of its number."""
    rng = np.random.Generator(np.random.Philox(number))
    lens = torch.from_numpy(rng.integers(3, 9, size=size))
    feats = torch.from_numpy(rng.standard_normal((size, int(lens.max()), DIM)).astype(np.float32))
    return Batch(
        feats=feats * ~lengths_to_pad_mask(lens, feats.shape[1])[:, :, None],
        feat_lens=lens,
        tokens=torch.zeros(size, 0, dtype=torch.int64),
        token_lens=torch.zeros(size, dtype=torch.int64),
        utt_ids=tuple(f"{number}-{i}" for i in range(size)),
    )


class ToyLoader:
    """Seven batches an epoch; a rank takes every `size`-th utterance."""

    digest = hashlib.sha256(b"toy").hexdigest()
    kill_rank_1_at: int | None = None

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def iterate(self, start_position: int) -> Iterator[Batch]:
        position = start_position
        while True:
            if self.rank == 1 and position == self.kill_rank_1_at:
                os.kill(os.getpid(), signal.SIGKILL)
            epoch, index = self.position_to_epoch(position)
            batch = make_batch(1000 * epoch + index)
            rows = slice(self.rank, None, self.size)
            yield replace(
                batch,
                feats=batch.feats[rows],
                feat_lens=batch.feat_lens[rows],
                tokens=batch.tokens[rows],
                token_lens=batch.token_lens[rows],
                utt_ids=batch.utt_ids[rows],
            )
            position += 1

    def dearest(self) -> Batch:
        return next(self.iterate(0))

    def position_to_epoch(self, position: int) -> tuple[int, int]:
        return divmod(position, 7)


class ToyModel(nn.Module):
    """Two terms with counts that are not proportional, dropout, running statistics, and NaN where it is asked for."""

    def __init__(self, dropout: float = 0.1, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(DIM, 8)
        self.norm = MaskedBatchNorm(8) if norm else None
        self.dropout = nn.Dropout(dropout)
        self.rest = nn.Linear(8, DIM)
        self.nan_losses: frozenset[int] = frozenset()
        self.nan_grads: frozenset[int] = frozenset()
        self.room: dict[int, int] = {}  # step -> items of a batch that fit into memory

    def forward(self, batch: Batch, seed: int, step: int) -> LossOutput:
        if self.training and len(batch.utt_ids) > self.room.get(step, 99):
            torch.empty(1 << 60)
        pad_mask = lengths_to_pad_mask(batch.feat_lens, batch.feats.shape[1])
        hidden = torch.tanh(self.encoder(batch.feats))
        hidden = self.norm(hidden, pad_mask) if self.norm is not None else hidden
        wrong = (self.rest(self.dropout(hidden)) - batch.feats.roll(1, 2)).square().mean(-1)
        wrong = wrong.masked_fill(pad_mask, 0.0)
        frames, utterances = batch.feat_lens.sum(), torch.tensor(len(batch.utt_ids))
        total = wrong.sum()
        if self.training and step in self.nan_losses:
            total = total * float("nan")
        if self.training and step in self.nan_grads:
            total = total + NanGradient.apply(total)
        terms = {
            "frame": LossTerm(total, frames),
            "utterance": LossTerm(wrong.max(1).values.square().sum(), utterances, 0.3),
        }
        return LossOutput(terms, {"small": ((wrong < 0.5).sum(), frames)})


class WideModel(ToyModel):
    """Enough parameters that a sum over three ranks depends on the order in which it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(DIM, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, DIM))

    def forward(self, batch: Batch, seed: int, step: int) -> LossOutput:
        return super().forward(replace(batch, feats=batch.feats + 0.1 * self.wide(batch.feats)), seed, step)


class NanGradient(torch.autograd.Function):
    """Zero, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * float("nan")


PARTS = {
    "encoder": Part(prefixes=("encoder.",), config=OptimizerConfig(peak_lr=0.01, warmup_steps=3)),
    "rest": Part(config=OptimizerConfig(name="adafactor", peak_lr=0.02, schedule="transformer", warmup_steps=2)),
}
CONFIG = TrainerConfig(
    max_steps=20, save_every=4, eval_every=6, log_every=3, keep=2, keep_best=2, seed=3, device="cpu", tensorboard=False
)


def run(
    out: Path,
    model: ToyModel | None = None,
    world: World | None = None,
    parts: dict[str, Part] | None = None,
    resolved: dict[str, Any] | None = None,
    digests: dict[str, str] | None = None,
    dev: Iterable[Batch] | None = None,
    measure: Measure | None = None,
    **changes: Any,
) -> TrainResult:
    """Train a toy model in `out`."""
    world = world or World()
    return train(
        model or ToyModel(),
        ToyLoader(world.rank, world.size),
        dev or [make_batch(10_000 + i) for i in range(3)],
        config=replace(CONFIG, **changes),
        optimizers=parts or PARTS,
        out=out,
        resolved=resolved or {"toy": {"size": 1}, "trainer": {"max_steps": 20}},
        digests=digests,
        measure=measure,
        world=world,
    )


def main() -> None:
    """OUT, and a JSON object of changes to the trainer's configuration and to the toy model."""
    torch.set_num_threads(1)
    changes = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    kill_at = changes.pop("kill_rank_1_at", None)  # before torchrun has started anything again
    if kill_at is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        ToyLoader.kill_rank_1_at = kill_at
    model = ToyModel(dropout=changes.pop("dropout", 0.1))
    model.nan_losses = frozenset(changes.pop("nan_losses", []))
    model.nan_grads = frozenset(changes.pop("nan_grads", []))
    try:
        with open_world("cpu", timeout=60.0) as world:
            run(Path(sys.argv[1]), model, world, **changes)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
