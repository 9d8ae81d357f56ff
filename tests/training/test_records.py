"""What is written down, and how it is cut back to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from w2vbert_asr.errors import DataError
from w2vbert_asr.training.records import RecordWriter


def test_lines_after_the_checkpoint_and_torn_ones_are_cut(tmp_path: Path) -> None:
    records = RecordWriter(tmp_path, 0, 0, tensorboard=False)
    records.write(1, "train", {"loss": 1 / 3, "epoch": 0, "bad": float("nan")})
    records.write_timing(1, {"seconds": 2.34567})
    size = records.sync()
    records.write(2, "train", {"loss": 0.25})
    records.write_timing(2, {"seconds": 1.0})
    records.close()
    (tmp_path / "log.jsonl").open("a").write('{"step": 3, "spl')
    (tmp_path / "timing.jsonl").open("a").write('{"step": 3')
    again = RecordWriter(tmp_path, size, 1, tensorboard=False)
    again.write(2, "dev", {"loss": 0.5})
    again.close()
    first = {"step": 1, "split": "train", "loss": 0.33333333, "epoch": 0, "bad": None}
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        first,
        {"step": 2, "split": "dev", "loss": 0.5},
    ]
    assert (tmp_path / "timing.jsonl").read_text() == '{"step": 1, "seconds": 2.346}\n'


def test_a_log_that_lost_lines_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.jsonl: shorter than at the checkpoint of step 5"):
        RecordWriter(tmp_path, 100, 5, tensorboard=False)
    assert not (tmp_path / "log.jsonl").exists()


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = RecordWriter(tmp_path, 0, 0, tensorboard=True)
    records.write(4, "dev", {"wer": 12.5})
    records.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("dev/wer")] == [(4, 12.5)]
