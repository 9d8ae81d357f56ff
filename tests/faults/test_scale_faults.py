"""FAULTS.md D20, L9 in their short form: what a long manifest must not cost. Seconds: tools/bench/scale.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench import scale
from w2vbert_asr.data import columns, index
from w2vbert_asr.data.corpus import Corpus, DataConfig
from w2vbert_asr.data.dataset import TrainLoader
from w2vbert_asr.data.features import FeatureReader
from w2vbert_asr.text.tokenizer import Tokenizer

LINES = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scale.make(tmp_path_factory.mktemp("scale"), LINES)


def test_d20_clean_tables_are_taken_as_a_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "read_table", None)
    (folder / index.INDEX).unlink(missing_ok=True)
    assert len(index.open_index(folder)) == LINES


@pytest.mark.parametrize("case", scale.CASES)
def test_l09_a_batch_late_in_an_epoch_costs_that_batch_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    index.open_index(folder)
    monkeypatch.setattr(index, "_make", None)  # opened again, nothing is parsed
    read: list[int] = []
    load = FeatureReader.load
    monkeypatch.setattr(FeatureReader, "load", lambda self, number: (read.append(number), load(self, number))[1])
    packed, settings = scale.CASES[case]
    config = DataConfig(**settings)
    tokenizer = None if packed else Tokenizer(folder / "bpe.model")
    loader = TrainLoader(Corpus([folder], config, None, tokenizer), config, seed=1, packed=packed)
    position = int(1.9 * loader.batches_per_epoch)
    batch = next(loader.iterate(position))
    pieces = [piece for item in loader.items(position) for piece in item]
    assert read == [piece.index for piece in pieces]
    assert len(batch.utt_ids) == len(loader.items(position)) and len(read) < LINES / 100
