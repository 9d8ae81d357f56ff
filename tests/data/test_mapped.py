"""Mapped arrays: what was written comes back, what is torn, foreign or old never does, and makers do not collide."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.training.runs import finish, start
from w2vbert_asr.data import mapped
from w2vbert_asr.data.mapped import Array, cached, map_arrays, write_arrays

RNG = np.random.default_rng(0)
ARRAYS: dict[str, Array] = {
    "ids": RNG.integers(0, 256, 101).astype(np.uint8),
    "frames": RNG.integers(-(2**40), 2**40, 7),
    "speakers": RNG.integers(0, 9, 5).astype(np.int32),
    "durations": RNG.normal(0, 1, 3),
    "nothing": np.zeros(0, dtype=np.int64),
}


def write(path: Path, key: str = "k", arrays: Mapping[str, Array] = ARRAYS) -> Path:
    with open(path, "wb") as file:
        write_arrays(file, key, arrays)
    return path


def same(found: Mapping[str, Array] | None, expected: Mapping[str, Array] = ARRAYS) -> bool:
    return (
        found is not None
        and found.keys() == expected.keys()
        and all(found[name].dtype == array.dtype for name, array in expected.items())
        and all(np.array_equal(found[name], array) for name, array in expected.items())
    )


def test_what_was_written_comes_back_here_and_in_safetensors(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    found = map_arrays(path, "k")
    assert found is not None and same(found) and same(safetensors.numpy.load_file(path))
    assert not any(array.flags.writeable for array in found.values() if len(array))
    assert write(tmp_path / "b", arrays=dict(reversed(ARRAYS.items()))).read_bytes() == path.read_bytes()


def test_torn_at_every_place_and_changed_at_any_it_is_not_believed(tmp_path: Path) -> None:
    content = write(tmp_path / "a").read_bytes()
    for size in range(len(content)):
        (tmp_path / "a").write_bytes(content[:size])
        assert map_arrays(tmp_path / "a", "k") is None
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << int(RNG.integers(8))
        (tmp_path / "a").write_bytes(changed)
        found = map_arrays(tmp_path / "a", "k")
        assert found is None or (changed[place : place + 1].isspace() and same(found))  # a blank of the header
    (tmp_path / "a").write_bytes(content + b"\0")
    assert map_arrays(tmp_path / "a", "k") is None


def test_what_is_foreign_or_of_another_key_counts_as_absent(tmp_path: Path) -> None:
    assert map_arrays(write(tmp_path / "a", "other"), "k") is None
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a", {"key": "k"})
    assert map_arrays(tmp_path / "a", "k") is None
    for content in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"):
        (tmp_path / "a").write_bytes(content)
        assert map_arrays(tmp_path / "a", "k") is None
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    assert map_arrays(tmp_path / "fifo", "k") is map_arrays(tmp_path / "folder", "k") is None
    assert map_arrays(tmp_path / "none", "k") is None


def test_it_is_made_once_and_again_when_it_is_damaged(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> Mapping[str, Array]:
        calls.append(1)
        return ARRAYS

    path = tmp_path / "a"
    for _ in range(3):
        assert same(cached(path, "k", make))
    assert len(calls) == 1
    path.write_bytes(path.read_bytes()[:-1])
    assert same(cached(path, "k", make)) and len(calls) == 2
    assert same(cached(path, "other", make)) and len(calls) == 3
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("where", ["write", "lock"])
def test_where_nothing_can_be_written_it_stays_in_memory(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(*((mapped, "atomic_write") if where == "write" else (mapped.fcntl, "flock")), refuse)
    for _ in range(2):
        assert same(cached(tmp_path / "a", "k", lambda: ARRAYS))
    assert set(os.listdir(tmp_path)) <= {".a.lock"} and "made anew at every start" in caplog.text


def test_of_many_makers_one_makes_it_and_the_death_of_one_hurts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def make() -> Mapping[str, Array]:
        with open(tmp_path / "calls", "a") as calls:
            calls.write("x")
        time.sleep(0.3)
        return ARRAYS

    def action() -> None:
        assert same(cached(path, "k", make))

    def die() -> Mapping[str, Array]:
        (tmp_path / "dying").touch()
        time.sleep(60)
        return ARRAYS

    dying = start(lambda: cached(path, "k", die))
    while not (tmp_path / "dying").exists():
        time.sleep(0.01)
    (tmp_path / ".a.partial").write_bytes(b"what a killed process had written")
    others = [start(action) for _ in range(4)]
    time.sleep(0.2)
    assert dying.pid is not None and not (tmp_path / "calls").exists()
    os.kill(dying.pid, signal.SIGKILL)
    assert [finish(process) for process in others] == [0] * 4
    assert (tmp_path / "calls").read_text() == "x"
    assert same(map_arrays(path, "k")) and sorted(os.listdir(tmp_path)) == ["a", "calls", "dying"]
