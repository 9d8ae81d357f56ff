"""FAULTS.md C03-C06, C09, C11-C15: damaged checkpoints, a full disk, a changed run, two owners."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training import toy
from tests.training.runs import CHECKPOINT_POINTS, call, call_ranks, differences, start, steps_of, usable, wait_for
from w2vbert_asr.batch import Batch
from w2vbert_asr.errors import ConfigError, DataError, ResourceError
from w2vbert_asr.training import checkpoint
from w2vbert_asr.training.distributed import World

STEPS = 20


def test_c03_damage_is_found_and_the_previous_one_used(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    damages: dict[str, Callable[[Path], object]] = {
        "truncated": lambda path: os.truncate(path / "model.safetensors", 100),
        "emptied": lambda path: os.truncate(path / "optimizer.safetensors", 0),
        "flipped": lambda path: flip(path / "model.safetensors"),
        "file removed": lambda path: (path / "rank-00000.safetensors").unlink(),
        "manifest removed": lambda path: (path / "MANIFEST.json").unlink(),
        "state changed": lambda path: flip(path / "state.json"),
    }
    for name, damage in damages.items():
        exp = tmp_path / name
        shutil.copytree(undisturbed, exp)
        damage(exp / "checkpoints" / "step-00000020")
        caplog.clear()
        assert toy.run(exp).resumed_from == 18
        assert "step-00000020: damaged, passed over" in caplog.text, name
        assert differences(undisturbed, exp) == [], name


def test_c04_all_damaged_is_an_error(undisturbed: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(undisturbed, exp)
    for path in checkpoint.list_checkpoints(exp):
        os.truncate(path / "model.safetensors", 10)
    log = (exp / "log.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"(?s)every checkpoint is damaged.*step-00000018.*start from scratch"):
        toy.run(exp)
    assert (exp / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize("point", CHECKPOINT_POINTS)
def test_c05_disk_full_at_each_point(point: str, undisturbed: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    assert call(lambda: toy.run(exp), fault=f"{point}:full:2") == ResourceError.exit_code
    assert usable(exp) == steps_of(exp) != []
    assert call(lambda: toy.run(exp)) == 0
    assert differences(undisturbed, exp) == []
    assert not [path for path in (exp / "checkpoints").iterdir() if path.name.startswith(".")]


def test_c05_file_size_limit(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        with pytest.raises(ResourceError, match=r"step-00000004: cannot be written \(.*File too large"):
            toy.run(tmp_path / "exp")

    assert call(limited) == 0
    assert list((tmp_path / "exp" / "checkpoints").iterdir()) == []


def test_c06_no_directory_to_write_in(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"file/exp/\.lock: Not a directory"):
        toy.run(tmp_path / "file" / "exp")


def test_c06_vanished_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = tmp_path / "exp"
    original = toy.ToyLoader.iterate

    def iterate(self: toy.ToyLoader, start_position: int) -> Iterator[Batch]:
        for at, batch in enumerate(original(self, start_position)):
            if at == 6:
                exp.rename(tmp_path / "moved")
            yield batch

    monkeypatch.setattr(toy.ToyLoader, "iterate", iterate)
    with pytest.raises(ResourceError, match="exp: the experiment has vanished"):
        toy.run(exp)
    assert usable(tmp_path / "moved") == [4, 6] or usable(tmp_path / "moved") == [4]


def test_c09_a_changed_run_is_refused_with_a_difference(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(undisturbed, exp)
    changed = {"toy": {"size": 2}, "trainer": {"max_steps": 24, "save_every": 3}}
    with pytest.raises(ConfigError, match=r"(?s)changed since step 20:\n  toy\.size: 1 -> 2\n.*--allow-change"):
        toy.run(exp, resolved=changed, max_steps=24)
    with pytest.raises(ConfigError, match=r"digest of tokenizer: None -> abcdef"):
        toy.run(exp, digests={"tokenizer": "abcdef"})
    harmless = {"toy": {"size": 1}, "trainer": {"max_steps": 24}}
    result = toy.run(exp, resolved=harmless, max_steps=24)
    assert (result.resumed_from, result.step) == (20, 24)
    assert "trainer.max_steps: 20 -> 24" in caplog.text
    assert "max_steps: 24" in (exp / "config.yaml").read_text()
    changed["trainer"]["max_steps"] = 26
    assert toy.run(exp, resolved=changed, max_steps=26, allow_change=True).step == 26
    starts = [json.loads(line) for line in (exp / "starts.jsonl").read_text().splitlines()]
    assert starts[-1]["changed"][0] == "toy.size: 1 -> 2"


def test_c11_two_ranks_go_on_as_one(tmp_path: Path) -> None:
    settings = {"log_every": 1, "save_every": 10, "keep": 9}
    one, mixed = tmp_path / "one", tmp_path / "mixed"

    def two(world: World) -> None:
        toy.run(mixed, toy.ToyModel(dropout=0.0), world, **settings)

    def alone(exp: Path) -> None:
        toy.run(exp, toy.ToyModel(dropout=0.0), **settings)

    assert call_ranks(two) == [0, 0]
    for path in checkpoint.list_checkpoints(mixed):
        if checkpoint.step_of(path) > 10:
            shutil.rmtree(path)
    assert call(lambda: alone(mixed)) == 0
    assert call(lambda: alone(one)) == 0
    ours, theirs = ([json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()] for exp in (mixed, one))
    assert len(ours) == len(theirs) == STEPS + 4
    for found, wanted in zip(ours, theirs, strict=True):
        assert found.pop("split") == wanted.pop("split")
        assert found == pytest.approx(wanted, rel=1e-5)


def test_c12_one_process_owns_an_experiment(tmp_path: Path) -> None:
    exp = tmp_path / "exp"

    def hold() -> None:
        def iterate(self: toy.ToyLoader, start_position: int) -> Iterator[Batch]:
            worker = os.fork()  # it outlives its owner
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            (exp / "starting").write_text(str(worker))
            (exp / "starting").rename(exp / "ready")
            time.sleep(60)
            yield toy.make_batch(0)

        toy.ToyLoader.iterate = iterate  # type: ignore[method-assign]
        toy.run(exp)

    owner = start(hold)
    wait_for((exp / "ready").exists)
    with pytest.raises(ResourceError, match=f"process {owner.pid} on .* is training here"):
        toy.run(exp)
    worker = int((exp / "ready").read_text())
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGKILL)
    os.waitpid(owner.pid, 0)
    try:
        os.kill(worker, 0)  # still there
        assert toy.run(exp).step == STEPS
    finally:
        os.kill(worker, signal.SIGKILL)


def test_c13_no_file_is_chosen_by_its_time(undisturbed: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(undisturbed, exp)
    for age, path in enumerate(reversed(checkpoint.list_checkpoints(exp))):
        os.utime(path, (1e9 + age, 1e9 + age))
    assert checkpoint.newest(exp).name == "step-00000020"


def test_c14_another_format_is_refused_by_name(undisturbed: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(undisturbed, exp)
    rewrite_state(checkpoint.newest(exp), format=0)
    with pytest.raises(DataError, match="checkpoint format 0; this version reads format 1"):
        toy.run(exp)


def test_c15_a_missing_random_state_is_never_silent(
    undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(undisturbed, exp)
    path = checkpoint.newest(exp)
    (path / "rank-00000.safetensors").unlink()
    rewrite_state(path)  # the manifest agrees with what is there
    assert checkpoint.problems(path) == ["rank-00000.safetensors: missing"]
    assert toy.run(exp).resumed_from == 18
    assert "rank-00000.safetensors: missing" in caplog.text


def rewrite_state(path: Path, **changes: object) -> None:
    """Change a checkpoint as another version might have written it: with a manifest that agrees."""
    tree = {**json.loads((path / "state.json").read_text()), **changes}
    (path / "state.json").write_text(json.dumps(tree))
    (path / "MANIFEST.json").unlink()
    (path / "MANIFEST.json").write_text(checkpoint._dump(checkpoint._measure(path)))
