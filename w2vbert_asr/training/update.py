"""One update: from micro-batches to gradients, normalised exactly over micro-batches and ranks.

The objective is sum over terms of weight * (sum of the totals) / (sum of the counts), both sums over all micro-batches
and ranks. The counts are therefore known before the first backward pass: with one micro-batch after its forward pass;
with several from a pass of their own, `model.counts(batch, seed, step)` where a model has it, else a forward pass
without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from w2vbert_asr.batch import Batch
from w2vbert_asr.counter_random import draw_key
from w2vbert_asr.losses.output import LossOutput
from w2vbert_asr.training.distributed import World, sum_over_ranks, whole, without_sync

Counts = dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """Gradients are ready, and clipped, if `finite`. outputs: of this rank's micro-batches, detached.

    loss: the objective. frames: over all ranks. stop: the largest signal number that any rank was given, 0 for none.
    """

    outputs: list[LossOutput]
    loss: float
    grad_norm: float
    finite: bool
    frames: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every update of a run shares. clip_norm: largest norm of all gradients together."""

    seed: int
    bf16: bool
    clip_norm: float
    world: World


def compute_gradients(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    batches: Sequence[Batch],
    step: int,
    stop: int,
    setting: Setting,
) -> Update:
    """Gradients of the objective over `batches` (this rank's micro-batches) and the other ranks' of the same step.

    model: as wrapped for the ranks. stop: number of the signal that this rank was given, 0 for none.
    """
    world = setting.world
    counts = _count_first(model, batches, step, setting) if len(batches) > 1 else None
    outputs, losses = [], []
    for micro, batch in enumerate(batches):
        with without_sync(model) if micro + 1 < len(batches) else nullcontext():
            output = _forward(model, batch, step, micro, setting)
            if counts is None:
                counts = _reduce({name: term.count for name, term in output.terms.items()}, world)
            # DistributedDataParallel averages over ranks, and the objective is a sum over them.
            objective = _objective(output, counts)
            (objective * world.size).backward()  # type: ignore[no-untyped-call]
        losses.append(objective.detach().double())
        outputs.append(_detach(output))
    norm = whole(nn.utils.clip_grad_norm_(parameters, setting.clip_norm))
    loss, grad_norm = torch.stack([torch.stack(losses).sum(), norm.double()]).tolist()  # the one wait for the device
    frames = sum(int(batch.feat_lens.sum()) for batch in batches)
    every = _gather([loss, float(frames), float(stop)], world)
    loss = sum(row[0] for row in every)
    return Update(
        outputs,
        loss=loss,
        grad_norm=grad_norm,
        finite=math.isfinite(loss) and math.isfinite(grad_norm),
        frames=sum(int(row[1]) for row in every),
        stop=max(int(row[2]) for row in every),
    )


def seed_draws(seed: int, step: int, rank: int, micro: int) -> None:
    """Seed torch's generators (dropout) of one micro-batch, so that nothing random outlives it."""
    torch.manual_seed(draw_key(seed, step, f"{rank}/{micro}", "dropout"))


def autocast(world: World, bf16: bool) -> torch.autocast:
    """The precision of the forward pass."""
    return torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=bf16)


def _forward(model: nn.Module, batch: Batch, step: int, micro: int, setting: Setting) -> LossOutput:
    seed_draws(setting.seed, step, setting.world.rank, micro)
    with autocast(setting.world, setting.bf16):
        output: LossOutput = model(batch, seed=setting.seed, step=step)
    return output


@torch.no_grad()
def _count_first(model: nn.Module, batches: Sequence[Batch], step: int, setting: Setting) -> Counts:
    plain: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    before = snapshot(plain)
    counts: Counts = {}
    for micro, batch in enumerate(batches):
        count_cheaply: Callable[..., Mapping[str, Tensor]] | None = getattr(plain, "counts", None)
        if count_cheaply is not None:
            found = count_cheaply(batch, seed=setting.seed, step=step)
        else:
            terms = _forward(plain, batch, step, micro, setting).terms
            found = {name: term.count for name, term in terms.items()}
        for name, count in found.items():
            counts[name] = counts.get(name, 0) + count.double()
    restore(plain, before)
    return _reduce(counts, setting.world)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that a forward pass may change (running statistics, counters)."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def restore(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Put the buffers back."""
    for name, buffer in before.items():
        model.get_buffer(name).copy_(buffer)


def _reduce(counts: Mapping[str, Tensor], world: World) -> Counts:
    if world.size == 1 or not counts:
        return dict(counts)
    names = sorted(counts)
    total = sum_over_ranks(torch.stack([counts[name].double() for name in names]), world)
    return dict(zip(names, total.unbind(), strict=True))


def _objective(output: LossOutput, counts: Mapping[str, Tensor]) -> Tensor:
    """This micro-batch's share of the objective; a term without count adds nothing."""
    parts = []
    for name, term in output.terms.items():
        count = counts[name].double()
        share = torch.where(count > 0, term.weight / count, 0.0)
        parts.append(term.total * share.to(term.total.dtype))
    return torch.stack(parts).sum()


def _detach(output: LossOutput) -> LossOutput:
    terms = {
        name: replace(term, total=term.total.detach(), count=term.count.detach()) for name, term in output.terms.items()
    }
    return LossOutput(terms, {name: (a.detach(), b.detach()) for name, (a, b) in output.stats.items()})


def _gather(mine: Sequence[float], world: World) -> list[list[float]]:
    """The numbers of every rank, in the order of ranks."""
    if world.size == 1:
        return [list(mine)]
    table = torch.zeros(world.size, len(mine), dtype=torch.float64, device=world.device)
    table[world.rank] = torch.tensor(mine, dtype=torch.float64)
    rows: list[list[float]] = sum_over_ranks(table, world).tolist()
    return rows
