from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from w2vbert_asr.data.parallel import map_parallel, num_processes
from w2vbert_asr.errors import DataError, ResourceError


def square(x: int) -> int:
    time.sleep(0.001 * (x % 3))
    return x * x


def fragile(x: int) -> int:
    if x in (3, 17, 18):
        os._exit(1)  # as a decoder that crashes
    return x


def strict(x: int) -> int:
    if x == 5:
        raise DataError("five")
    return x


def lost(x: int) -> int:
    return -x


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_order_and_completeness(num_jobs: int) -> None:
    assert list(map_parallel(square, range(150), num_jobs, "squares")) == [x * x for x in range(150)]
    assert list(map_parallel(square, [], num_jobs, "none")) == []


def test_a_dead_process_costs_only_its_item() -> None:
    results = list(map_parallel(fragile, range(40), 2, "fragile", lost))
    assert results == [-x if x in (3, 17, 18) else x for x in range(40)]


def test_a_dead_process_is_an_error_where_nothing_stands_in() -> None:
    with pytest.raises(ResourceError, match="worker process died"):
        list(map_parallel(fragile, range(40), 2, "fragile"))


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_exceptions_arrive(num_jobs: int) -> None:
    with pytest.raises(DataError, match="five"):
        list(map_parallel(strict, range(40), num_jobs, "strict"))


def hold(folder: Path) -> None:
    """The first process that comes works for long, the second one has nothing to do any more."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    if str(os.getpid()) == min(path.name for path in folder.iterdir()):
        time.sleep(60)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def test_no_worker_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    """Of two workers one is waiting for work and one is in the middle of it."""
    script = (
        "import sys, pathlib\n"
        "from tests.data.test_parallel import hold; from w2vbert_asr.data.parallel import map_parallel\n"
        "if __name__ == '__main__':\n    list(map_parallel(hold, [pathlib.Path(sys.argv[1])] * 2, 2, 'hold'))\n"
    )
    (tmp_path / "script.py").write_text(script)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pids")]
    (tmp_path / "pids").mkdir()
    child = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    wait_until(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    child.kill()
    assert child.wait() == -signal.SIGKILL
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_zero_means_every_core() -> None:
    assert num_processes(3) == 3
    assert num_processes(0) >= 1
