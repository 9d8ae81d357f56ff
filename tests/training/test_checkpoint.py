"""Checkpoints on disk: whole or not there, and every changed byte found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from w2vbert_asr.errors import DataError
from w2vbert_asr.training import checkpoint
from w2vbert_asr.training.checkpoint import Checkpoint
from w2vbert_asr.training.state import TrainState


def write(exp: Path, step: int, best: tuple[tuple[float, int], ...] = ()) -> Path:
    tied = torch.full((2, 3), float(step))
    return checkpoint.save(
        exp,
        Checkpoint(
            state=TrainState(step=step, best=best),
            model={"weight": tied, "tied": tied, "count": torch.tensor(3)},
            optimizer={"weight/step": torch.tensor(1.0)},
            ranks=[{"random/cpu": torch.get_rng_state()}],
        ),
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = write(tmp_path, 60, best=((0.5, 60), (0.75, 40)))
    assert path == tmp_path / "checkpoints" / "step-00000060"
    loaded = checkpoint.load(path)
    assert loaded.state == TrainState(step=60, best=((0.5, 60), (0.75, 40)))
    assert torch.equal(loaded.model["tied"], torch.full((2, 3), 60.0))
    assert torch.equal(loaded.ranks[0]["random/cpu"], torch.get_rng_state())
    assert [one.name for one in path.parent.iterdir()] == ["step-00000060"]


def test_every_single_byte_is_covered(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    rng = random.Random(0)
    files = sorted(path.iterdir())
    for _ in range(150):
        file = rng.choice(files)
        before = file.read_bytes()
        place = rng.randrange(len(before))
        changed = bytes([before[place] ^ (1 << rng.randrange(8))])
        file.write_bytes(before[:place] + changed + before[place + 1 :])
        assert checkpoint.problems(path), f"{file.name}: byte {place} changed to {changed!r} unseen"
        file.write_bytes(before[: rng.randrange(len(before))])
        assert checkpoint.problems(path), f"{file.name}: truncated unseen"
        file.write_bytes(before)
    assert checkpoint.problems(path) == []


def test_foreign_and_missing_files_and_folders(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "extra").write_text("x")
    assert checkpoint.problems(path) == ["extra: not in MANIFEST.json"]
    (path / "extra").unlink()
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").mkdir()
    assert checkpoint.problems(path) == ["model.safetensors: damaged"]


def test_best_and_prune(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        write(tmp_path, step, best=((0.1, 4), (0.2, 8), (0.3, 2)))
    assert [path.name for path in checkpoint.best(tmp_path, 2)] == ["step-00000004", "step-00000008"]
    checkpoint.prune(tmp_path, {4, 8})
    assert [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(tmp_path)] == [4, 8]
    write(tmp_path, 10)
    assert [checkpoint.step_of(path) for path in checkpoint.best(tmp_path, 2)] == [10, 8]
    assert float(checkpoint.load_weights(tmp_path / "checkpoints/step-00000008")["weight"][0, 0]) == 8.0


def test_what_a_killed_process_leaves_is_cleaned(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    (path.parent / ".step-00000006.partial").mkdir()
    (path.parent / ".step-00000001.doomed").mkdir()
    path.rename(path.parent / ".step-00000003.old")  # killed between the two renames that replace a checkpoint
    checkpoint.clean(tmp_path)
    assert [one.name for one in path.parent.iterdir()] == ["step-00000003"]
    assert checkpoint.newest(tmp_path) == path


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no checkpoint"):
        checkpoint.newest(tmp_path)


def test_names_and_shapes_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    ours = {"a": torch.zeros(2), "b": torch.zeros(3)}
    found = {"a": torch.zeros(4), "c": torch.zeros(3)}
    with pytest.raises(DataError, match=r"(?s)a: shape \(4,\), in the model \(2,\).*b: missing.*c: not in the model"):
        checkpoint.require_match(tmp_path, found, ours)
