"""Dev metrics are sums over all batches, whatever the number of ranks, and cost the training nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.training.runs import call_ranks
from tests.training.toy import ToyModel, make_batch
from w2vbert_asr.batch import Batch
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.evaluation import evaluate
from w2vbert_asr.training.update import Setting

DEV = [make_batch(100 + i, size=i + 1) for i in range(5)]


def measure(model: nn.Module, batch: Batch) -> dict[str, tuple[float, float]]:
    assert not model.training
    return {"wer": (100.0 * len(batch.utt_ids), 7.0)}


def run(model: ToyModel, world: World) -> dict[str, float] | None:
    setting = Setting(seed=1, bf16=False, clip_norm=1.0, world=world)
    return evaluate(model, DEV, measure, 20, lambda: 0, setting)


def by_hand() -> dict[str, float]:
    model = ToyModel().eval().requires_grad_(False)
    outputs = [model(batch, seed=1, step=20) for batch in DEV]
    found = {}
    for name in ("frame", "utterance"):
        terms = [output.terms[name] for output in outputs]
        found[name] = float(sum(term.total for term in terms) / sum(term.count for term in terms))
    found["loss"] = found["frame"] + 0.3 * found["utterance"]
    small = [output.stats["small"] for output in outputs]
    found["small"] = float(sum(total for total, _ in small) / sum(count for _, count in small))
    found["wer"] = 100.0 * (1 + 2 + 3 + 4 + 5) / (5 * 7.0)
    return found


def test_metrics_are_sums_over_all_batches() -> None:
    model = ToyModel()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    assert run(model, World()) == pytest.approx(by_hand(), rel=1e-5)
    assert model.training
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_ranks_share_the_batches() -> None:
    def on_rank(world: World) -> None:
        assert run(ToyModel(), world) == pytest.approx(by_hand(), rel=1e-5)

    assert call_ranks(on_rank) == [0, 0]
