"""Evaluation on dev: sums and counts over all of its batches, dealt to the ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from w2vbert_asr.batch import Batch
from w2vbert_asr.losses.output import LossOutput
from w2vbert_asr.training.distributed import sum_over_ranks
from w2vbert_asr.training.metrics import Sums
from w2vbert_asr.training.update import Setting, autocast, seed_draws

# Further metrics of a batch, name -> (sum, count), such as {"wer": (100.0 * errors, words)}.
Measure = Callable[[nn.Module, Batch], Mapping[str, tuple[float, float]]]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    measure: Measure | None,
    step: int,
    stop: Callable[[], int],
    setting: Setting,
) -> dict[str, float] | None:
    """The means of all metrics over `batches`, or None if a signal came in between.

    model: not wrapped. step: given to the model at every evaluation alike, so that what is drawn is the same each time.
    Ranks go in step (a model may sum over them): without a batch of its own, a rank computes along and counts nothing.
    """
    world = setting.world
    sums = Sums(world.device)
    model.eval()
    try:
        source = iter(batches)
        for index in itertools.count():
            group = list(itertools.islice(source, world.size))
            flag = torch.tensor(float(stop()), device=world.device)
            if sum_over_ranks(flag, world):
                return None
            if not group:
                break
            batch = group[min(world.rank, len(group) - 1)].to(world.device)
            seed_draws(setting.seed, step, world.rank, index)
            with autocast(world, setting.bf16):
                output: LossOutput = model(batch, seed=setting.seed, step=step)
                more = measure(model, batch) if measure else {}
            if world.rank < len(group):
                sums.add_output(output)
                for name, (total, count) in more.items():
                    sums.add(name, total, count)
    finally:
        model.train()
    return sums.take(world)
