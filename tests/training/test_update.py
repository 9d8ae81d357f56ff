"""Gradients are those of the objective over all that is accumulated and over all ranks, written out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.runs import call_ranks
from tests.training.toy import ToyLoader, ToyModel, make_batch
from w2vbert_asr.batch import Batch
from w2vbert_asr.training.distributed import World, wrap
from w2vbert_asr.training.update import Setting, compute_gradients

SETTING = Setting(seed=3, bf16=False, clip_norm=1e9, world=World())


def gradients(model: ToyModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_hand(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Sum over terms of weight * (all totals) / (all counts), in one graph."""
    model = ToyModel(dropout=0.0, norm=False)
    outputs = [model(batch, seed=3, step=5) for batch in batches]
    objective = torch.zeros(())
    for name, first in outputs[0].terms.items():
        total = torch.stack([output.terms[name].total for output in outputs]).sum()
        count = torch.stack([output.terms[name].count for output in outputs]).sum()
        objective = objective + first.weight * total / count
    objective.backward()  # type: ignore[no-untyped-call]
    return gradients(model)


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys() and wanted
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("has_counts", [False, True])
def test_accumulation_equals_one_graph(has_counts: bool) -> None:
    batches = [make_batch(1, size=2), make_batch(2, size=5), make_batch(3, size=1)]
    model = ToyModel(dropout=0.0, norm=False)
    if has_counts:
        model.counts = lambda batch, seed, step: {  # type: ignore[assignment]
            "frame": batch.feat_lens.sum(),
            "utterance": torch.tensor(len(batch.utt_ids)),
        }
    update = compute_gradients(model, list(model.parameters()), batches, 5, 0, SETTING)
    assert update.finite and update.frames == sum(int(batch.feat_lens.sum()) for batch in batches)
    assert_close(gradients(model), by_hand(batches))


def test_the_counting_pass_leaves_no_trace() -> None:
    once, counted = ToyModel(), ToyModel()
    compute_gradients(once, list(once.parameters()), [make_batch(1)], 5, 0, SETTING)
    empty = replace(make_batch(1), feat_lens=torch.zeros(4, dtype=torch.int64))
    compute_gradients(counted, list(counted.parameters()), [make_batch(1), empty], 5, 0, SETTING)
    assert once.norm is not None and counted.norm is not None
    mean = once.norm.running_mean
    torch.testing.assert_close(counted.norm.running_mean, mean.lerp(torch.zeros_like(mean), 0.1))


def test_a_term_without_count_adds_nothing() -> None:
    empty = replace(make_batch(1), feat_lens=torch.zeros(4, dtype=torch.int64))
    model = ToyModel(dropout=0.0, norm=False)
    update = compute_gradients(model, list(model.parameters()), [empty], 5, 0, SETTING)
    assert update.finite and update.grad_norm == 0.0


def test_clipping_is_by_the_norm_of_all_gradients() -> None:
    model = ToyModel(dropout=0.0, norm=False)
    setting = replace(SETTING, clip_norm=0.5)
    update = compute_gradients(model, list(model.parameters()), [make_batch(1)], 5, 0, setting)
    wanted = by_hand([make_batch(1)])
    norm = torch.sqrt(torch.stack([one.square().sum() for one in wanted.values()]).sum())
    assert update.grad_norm == pytest.approx(float(norm), rel=1e-5)
    assert_close(gradients(model), {name: one * 0.5 / norm for name, one in wanted.items()})


def rank_batches(world: World, number: int) -> list[Batch]:
    source: Iterator[Batch] = ToyLoader(world.rank, world.size).iterate(0)
    return [next(source) for _ in range(number)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_have_the_gradient_of_one(tmp_path: Path, accumulate: int) -> None:
    def on_rank(world: World) -> None:
        model = ToyModel(dropout=0.0, norm=False)
        batches = rank_batches(world, accumulate)
        stop = 15 * world.rank
        setting = replace(SETTING, world=world)
        update = compute_gradients(wrap(model, world, "ddp"), list(model.parameters()), batches, 5, stop, setting)
        assert update.stop == 15
        assert update.frames == sum(int(batch.feat_lens.sum()) for batch in rank_batches(World(), accumulate))
        assert_close(gradients(model), by_hand(rank_batches(World(), accumulate)))

    assert call_ranks(on_rank) == [0, 0]
