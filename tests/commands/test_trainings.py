"""The two trainings as commands: the same numbers on one rank and on two, and what fine-tuning says of its memory."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from tests.training.runs import finish, start_ranks
from tools import soak
from w2vbert_asr import config as configuration
from w2vbert_asr.cli import main
from w2vbert_asr.commands import finetune
from w2vbert_asr.planning.activations import Widths
from w2vbert_asr.planning.heads import lattice_bytes
from w2vbert_asr.text.tokenizer import Tokenizer
from w2vbert_asr.training import precision
from w2vbert_asr.training.distributed import World


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> soak.Toy:
    return soak.make_toy(tmp_path_factory.mktemp("trainings"))


@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        ("pretrain", ()),
        ("finetune", ("model.projection_dropout=0", "model.decoder.dropout=0")),
        ("finetune", ("model.projection_dropout=0", "model.decoder.dropout=0", "model.loss=pruned")),
    ],
)
def test_two_ranks_train_as_one(toy: soak.Toy, tmp_path: Path, verb: str, settings: tuple[str, ...]) -> None:
    def line(out: str) -> list[str]:
        changes = [f"--set={one}" for one in ("trainer.log_every=1", "model.encoder.block.dropout=0", *settings)]
        return toy.line(verb, tmp_path / out, "--max-steps", 6, *changes)

    assert main(line("one")) == 0
    ranks = start_ranks(lambda _: os._exit(main(line("two"))), joined=False)
    assert [finish(rank, timeout=120) for rank in ranks] == [0, 0]
    logs = [
        [json.loads(one) for one in (tmp_path / out / "log.jsonl").read_text().splitlines()] for out in ("one", "two")
    ]
    assert len(logs[0]) == len(logs[1]) >= 6
    for one, two in zip(*logs, strict=True):
        split = one.pop("split")
        assert two.pop("split") == split
        if split == "dev":  # the codes of a micro-batch on all ranks: of one dev batch there, of two here
            of_group = {"loss", "diversity", "soft_perplexity", "code_perplexity"}
            one, two = ({name: line[name] for name in line.keys() - of_group} for line in (one, two))
        assert two == pytest.approx(one, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("loss", ["full", "pruned"])
def test_what_the_lattice_takes_is_said_before(
    toy: soak.Toy, tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = toy.line("finetune", tmp_path / "exp", f"--set=model.loss={loss}")
    files = {"train": [str(toy.root / "dump")], "dev": str(toy.root / "dump"), "out": str(tmp_path / "exp")}
    files["tokenizer"] = line[line.index("--tokenizer") + 1]
    config = configuration.load(finetune.Config, toy.root / "finetune.yaml", (f"model.loss={loss}",), files)
    loader = finetune.assemble(config, World()).loader
    monkeypatch.setattr(precision, "cpu_flags", lambda: ["avx512_bf16"])
    said = finetune.lattice_message(config, loader, World())
    batches = [loader[position] for position in range(loader.batches_per_epoch)]
    dearest = max(batches, key=lambda batch: batch.feats.shape[0] * batch.feats.shape[1])
    lens = [
        (-(-int(frames) // 4), int(tokens))
        for frames, tokens in zip(dearest.feat_lens, dearest.token_lens, strict=True)
    ]
    size = lattice_bytes(config.model, lens, Tokenizer(config.tokenizer).vocab_size, Widths.of("fp32", "cpu"))
    assert f"{len(lens)} utterance(s) of up to {max(lens)[0]} frames and {max(t for _, t in lens)} tokens" in said
    assert f": {size / 1e6:.0f} MB" in said
    assert ("model.loss=pruned" in said) == (loss == "full")
    smaller = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, precision="bf16"))
    assert "trainer.precision=bf16" in said and "precision" not in finetune.lattice_message(smaller, loader, World())
    monkeypatch.setattr(precision, "cpu_flags", list)
    assert "precision" not in finetune.lattice_message(config, loader, World())
