"""FAULTS.md T01-T04, T06-T08, X01, X02, X05, X06: numbers and ranks that go wrong in training."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training import toy
from tests.training.runs import call, call_ranks, differences, finish, start_ranks, usable
from w2vbert_asr.batch import Batch
from w2vbert_asr.errors import ConfigError, NumericsError, ResourceError
from w2vbert_asr.losses.transducer import transducer_loss
from w2vbert_asr.models.decoder import DecoderConfig
from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.joiner import JoinerConfig
from w2vbert_asr.models.transducer import Transducer, TransducerConfig
from w2vbert_asr.modules.conformer import ConformerConfig
from w2vbert_asr.training import checkpoint, memory
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.optimizer import OptimizerConfig, Part


def lines(exp: Path, split: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


@pytest.mark.parametrize("where", ["nan_losses", "nan_grads"])
def test_t01_a_bad_batch_changes_nothing(where: str, tmp_path: Path) -> None:
    model = toy.ToyModel()
    setattr(model, where, frozenset({6}))
    toy.run(tmp_path, model, max_steps=8, save_every=1, keep=8, log_every=1)
    before, after, later = (checkpoint.load(checkpoint.path_of(tmp_path, step)) for step in (6, 7, 8))
    assert all(torch.equal(after.model[name], one) for name, one in before.model.items())
    assert all(torch.equal(after.optimizer[name], one) for name, one in before.optimizer.items())
    assert not torch.equal(later.model["rest.weight"], after.model["rest.weight"])
    assert after.state.skipped == (6,)
    assert [line["skipped"] for line in lines(tmp_path, "train")] == [0] * 6 + [1, 0]
    assert "loss" not in lines(tmp_path, "train")[6]
    bundle = tmp_path / "nonfinite" / "step-00000006-rank-00000"
    summary = json.loads((bundle / "bundle.json").read_text())
    batch = toy.make_batch(6)
    assert summary["micro_batches"][0]["utt_ids"] == list(batch.utt_ids)
    assert torch.equal(load_file(bundle / "micro-000.safetensors")["feats"], batch.feats)


def test_t01_the_counted_skips_survive_a_kill(tmp_path: Path) -> None:
    def train(exp: Path) -> None:
        model = toy.ToyModel()
        model.nan_losses = frozenset({1, 7, 10})
        toy.run(exp, model)

    assert call(lambda: train(tmp_path / "whole")) == 0
    assert call(lambda: train(tmp_path / "killed"), fault="checkpoint.pruning:kill:1") < 0
    assert call(lambda: train(tmp_path / "killed")) == 0
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    assert checkpoint.read_state(checkpoint.newest(tmp_path / "killed")).skipped == (1, 7, 10)


def test_t02_eleven_bad_batches_end_the_run(tmp_path: Path) -> None:
    model = toy.ToyModel()
    model.nan_losses = frozenset(range(5, 100))
    with pytest.raises(NumericsError, match=r"11 of the last 1000 steps were not finite.*step 16; lower the peak"):
        toy.run(tmp_path, model, eval_every=100)
    assert usable(tmp_path)[0] == 8
    weights = checkpoint.load_weights(checkpoint.newest(tmp_path))
    assert all(torch.isfinite(one).all() for one in weights.values())


def test_t06_a_batch_that_does_not_fit_is_split_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {}
    for name, room in (("whole", {}), ("split", {4: 2, 9: 3})):
        model = toy.ToyModel(dropout=0.0, norm=False)
        model.room = room
        toy.run(tmp_path / name, model)
        weights[name] = checkpoint.load_weights(checkpoint.newest(tmp_path / name))
    said = capsys.readouterr().err
    assert said.count("out of memory; tried again in halves") == 2
    assert "step 5: out of memory; tried again in halves: 4-0, 4-1, 4-2, 4-3" in said
    for name, one in weights["whole"].items():
        torch.testing.assert_close(weights["split"][name], one, rtol=1e-4, atol=1e-5)


def test_t06_running_statistics_are_put_back_before_the_second_trial(tmp_path: Path) -> None:
    model = toy.ToyModel()
    model.room = {0: 2}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    batch = toy.make_batch(0)
    expected = toy.ToyModel().train()
    for half in memory.halves(batch):
        expected(half, 0, 0)
    toy.run(tmp_path, model, max_steps=1, dev=[batch])
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
    torch.testing.assert_close(model.norm.running_mean, expected.norm.running_mean)


def test_t06_a_second_failure_ends_the_run(tmp_path: Path) -> None:
    model = toy.ToyModel()
    model.room = {6: 1}
    with pytest.raises(ResourceError, match=r"out of memory at step 7 with a batch of 2 item\(s\) of up to 0\.\d s"):
        toy.run(tmp_path, model)
    assert usable(tmp_path)[-1] == 6  # evaluated there, and saved


def test_t06_the_dearest_batch_is_tried_before_the_first_step(tmp_path: Path) -> None:
    model = toy.ToyModel()
    model.room = {0: 1}
    with pytest.raises(ResourceError, match=r"out of memory at step 1.*lower data\.batch_seconds"):
        toy.run(tmp_path, model)
    assert usable(tmp_path) == [] and lines(tmp_path, "train") == []


def test_t06_what_counts_as_out_of_memory() -> None:
    for action in (lambda: torch.empty(1 << 60), lambda: np.zeros(1 << 50)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            action()
        assert memory.is_out_of_memory(caught.value)
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not memory.is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize("where", ["nan_losses", "nan_grads"])
def test_t03_bad_on_one_rank_skips_on_all(where: str, tmp_path: Path) -> None:
    def on_rank(world: World) -> None:
        model = toy.ToyModel()
        if world.rank == 1:
            setattr(model, where, frozenset({3}))
        toy.run(tmp_path, model, world, save_every=1, keep=20, max_steps=6)

    assert call_ranks(on_rank) == [0, 0]
    before, after = (checkpoint.load(checkpoint.path_of(tmp_path, step)) for step in (3, 4))
    assert all(torch.equal(after.model[name], one) for name, one in before.model.items())
    folders = {path.name for path in (tmp_path / "nonfinite").iterdir()}
    assert folders == {"step-00000003-rank-00000", "step-00000003-rank-00001"}


def test_t07_a_rate_a_thousand_times_too_high_is_not_silent(tmp_path: Path) -> None:
    wild = OptimizerConfig(peak_lr=10.0, schedule="constant", warmup_steps=1)
    with pytest.raises(NumericsError, match=r"stands far above where it began.*3 log lines; lower the peak"):
        toy.run(tmp_path, parts={"all": Part(config=wild)}, max_steps=100)


def test_t08_a_model_that_says_nothing_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.run(tmp_path / "silent", measure=lambda model, batch: {"empty_share": (4.0, 4.0)})
    said = capsys.readouterr().err
    assert said.count("100% of the dev hypotheses are empty: the model has learnt to emit blank only") == 3
    assert all(line["empty_share"] == 1.0 for line in lines(tmp_path / "silent", "dev"))
    toy.run(tmp_path / "speaking", measure=lambda model, batch: {"empty_share": (3.0, 4.0)})
    assert "blank only" not in capsys.readouterr().err


@pytest.mark.parametrize(("frames", "tokens"), [(1, 0), (1, 1), (1, 5), (2, 40), (30, 0), (9, 60)])
def test_t04_any_number_of_tokens_for_at_least_one_frame(frames: int, tokens: int) -> None:
    torch.manual_seed(0)
    config = TransducerConfig(
        encoder=EncoderConfig(num_layers=1, block=ConformerConfig(model_dim=8, num_heads=2, feed_forward_dim=8)),
        projection_dim=8,
        decoder=DecoderConfig(embedding_dim=4, hidden_dim=8, num_layers=1),
        joiner=JoinerConfig(joiner_dim=8),
        ctc_weight=0.5,
    )
    model = Transducer(config, vocab_size=6, blank_id=0)
    feats = torch.randn(2, 4 * max(frames, 3), 80)
    batch = Batch(
        feats=feats,
        feat_lens=torch.tensor([4 * frames, feats.shape[1]]),
        tokens=torch.randint(1, 6, (2, tokens)),
        token_lens=torch.tensor([tokens, tokens]),
        utt_ids=("a", "b"),
    )
    output = model(batch, seed=0, step=0)
    losses = output.terms["transducer"].by_utterance
    assert losses is not None and torch.isfinite(losses).all() and (losses > 0).all()
    sum(term.total for term in output.terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_t04_no_frame_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="utterance 1 of the batch has 0 frames; expected 1 to T = 3"):
        transducer_loss(
            torch.zeros(2, 3, 2, 4), torch.ones(2, 1, dtype=torch.int64), torch.tensor([3, 0]), torch.tensor([1, 1]), 0
        )


def test_x01_x02_a_rank_that_is_slow_or_dies_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The others end with E5 within the time-out, or at once, and the run goes on from its checkpoint."""
    assert call_ranks(lambda world: toy.run(tmp_path / "whole", world=world)) == [0, 0]
    for how, number in (("slow", 7), ("dead", 9)):

        def train(world: World, how: str = how, number: int = number) -> None:
            class Loader(toy.ToyLoader):
                def iterate(self, start_position: int) -> Iterator[Batch]:
                    for at, batch in enumerate(super().iterate(start_position), start_position):
                        if self.rank == 1 and at == number:
                            if how == "dead":
                                os.kill(os.getpid(), signal.SIGKILL)
                            time.sleep(8)
                        yield batch

            toy.ToyLoader = Loader  # type: ignore[misc]
            toy.run(tmp_path / how, world=world)

        began = time.monotonic()
        ranks = start_ranks(train, timeout=3.0)
        assert finish(ranks[0]) == 5
        assert finish(ranks[1]) in (5, -signal.SIGKILL)
        assert time.monotonic() - began < 30
        said = capfd.readouterr().out
        steps = f"rank 0 at {number + 1}, rank 1 at {number}"
        assert f"{tmp_path / how}: rank 0 waited in vain for rank 1 (steps begun: {steps})" in said
        assert call_ranks(lambda world, how=how: toy.run(tmp_path / how, world=world)) == [0, 0]
        assert differences(tmp_path / "whole", tmp_path / how) == []


def test_x05_ranks_that_differ_are_refused_at_start(tmp_path: Path) -> None:
    def on_rank(world: World) -> None:
        with pytest.raises(ConfigError, match=r"(?s)the ranks differ.*config: \[.*'size': 0.*'size': 1"):
            toy.run(tmp_path, world=world, resolved={"toy": {"size": world.rank}})

    assert call_ranks(on_rank) == [0, 0]
    assert not usable(tmp_path)


def test_x06_both_ranks_run_out_of_patience_together(tmp_path: Path) -> None:
    def on_rank(world: World) -> None:
        result = toy.run(tmp_path, world=world, patience=2, higher_is_better=True, eval_every=3, max_steps=50)
        assert result.step == 9
        again = toy.run(tmp_path, world=world, patience=2, higher_is_better=True, eval_every=3, max_steps=50)
        assert again.already_finished

    assert call_ranks(on_rank) == [0, 0]
    assert [line["step"] for line in lines(tmp_path, "dev")] == [3, 6, 9]
