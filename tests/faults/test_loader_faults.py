"""FAULTS.md A04, X04: audio that is damaged while training reads it, and loader processes that die."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.data.speech import make_dir
from w2vbert_asr.batch import Batch
from w2vbert_asr.data import dataset
from w2vbert_asr.data.corpus import Corpus, DataConfig
from w2vbert_asr.data.dataset import TrainLoader
from w2vbert_asr.errors import DataError


def make_loader(root: Path, num_workers: int = 0, **changes: float) -> TrainLoader:
    data = root / "data" if (root / "data").exists() else make_dir(root, num_utts=20)
    options = {"batch_seconds": 2.0, "min_seconds": 0.1, **changes}
    config = DataConfig(features="online", num_workers=num_workers, **options)  # type: ignore[arg-type]
    return TrainLoader(Corpus([data], config, None, None), config, seed=1, packed=False)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(batches, count))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a04_damaged_audio_is_replaced_and_counted(
    tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    loader = make_loader(tmp_path, num_workers, max_dropped=0.2)
    count = loader.batches_per_epoch
    before = take(loader.iterate(0), 2 * count)
    bad = before[1].utt_ids[0]
    audio = tmp_path / "audio" / f"{bad}.wav"
    audio.write_bytes(audio.read_bytes()[:5000])
    runs = [take(make_loader(tmp_path, num_workers, max_dropped=0.2).iterate(0), 2 * count) for _ in range(2)]
    for old, new, again in zip(before, *runs, strict=True):
        assert torch.equal(new.feats, again.feats) and new.utt_ids == again.utt_ids
        if bad not in old.utt_ids:
            assert torch.equal(old.feats, new.feats) and new.replaced == ()
            continue
        place = old.utt_ids.index(bad)
        assert len(new.utt_ids) == len(old.utt_ids) and bad not in new.utt_ids
        assert new.utt_ids[place] == old.utt_ids[(place + 1) % len(old.utt_ids)]
        ((utt_id, reason),) = new.replaced
        assert utt_id == bad and "frames_mismatch" in reason
    assert caplog.text.count(f"{bad}: replaced by another utterance") == 2  # once a run


def test_a04_too_much_damage_ends_the_run(tmp_path: Path) -> None:
    loader = make_loader(tmp_path)
    bad = loader[0].utt_ids[1]
    (tmp_path / "audio" / f"{bad}.wav").write_bytes(b"")
    with pytest.raises(DataError, match=rf"1 of 20 utterances have damaged audio.*\n  {bad}: "):
        take(make_loader(tmp_path).iterate(0), 20)


@pytest.mark.parametrize("kills", [1, 3])
def test_x04_a_killed_loader_process_costs_nothing(
    tmp_path: Path, kills: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = take(make_loader(tmp_path).iterate(0), 30)
    others = set(multiprocessing.active_children())
    batches, found = make_loader(tmp_path, 2).iterate(0), []
    for number in range(30):
        found.append(next(batches))
        if number % 8 == 3 and number // 8 < kills:
            own = set(multiprocessing.active_children()) - others
            max(own, key=lambda process: process.pid or 0).kill()  # those of an earlier start may still be going
    assert caplog.text.count("started again") == kills
    assert [batch.utt_ids for batch in found] == [batch.utt_ids for batch in expected]
    assert all(torch.equal(one.feats, other.feats) for one, other in zip(found, expected, strict=True))


def test_x04_processes_that_keep_dying_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()

    def die(self: TrainLoader, share: object) -> Batch:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(dataset.TrainLoader, "make", die)
    with pytest.raises(DataError, match=r"a loader process died .* near batch 0 of s\d-u\d+.*, 4 times in a row"):
        next(make_loader(tmp_path, 1).iterate(0))
