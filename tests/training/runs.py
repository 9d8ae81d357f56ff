"""Runs in child processes, forked from this one so that torch is imported once, and how their results are compared."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch._dynamo  # torch imports it with the first optimizer: once here, not once a child

from w2vbert_asr.errors import UserError
from w2vbert_asr.training import checkpoint
from w2vbert_asr.training.distributed import World, open_world

_FORK = multiprocessing.get_context("fork")
# Every place at which the writing of a checkpoint can be cut short.
CHECKPOINT_POINTS = (
    "checkpoint.before_temp",
    "checkpoint.mid_write",
    "checkpoint.before_fsync",
    "atomic_dir.before_rename",
    "checkpoint.after_rename",
    "checkpoint.pruning",
)
Child = multiprocessing.context.ForkProcess


def start(action: Callable[[], object], environment: Mapping[str, str] | None = None) -> Child:
    """A child that does `action` and exits as the command line would."""

    def child() -> None:
        os.environ.update(environment or {})
        torch.set_num_threads(1)
        try:
            action()
        except UserError as error:
            print(error, flush=True)
            os._exit(error.exit_code)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)

    process = _FORK.Process(target=child)
    process.start()
    return process


def finish(process: Child, timeout: float = 60.0) -> int:
    """The exit code of a child, negative for the signal that killed it."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the child hangs: still there after {timeout} s")
    return process.exitcode


def call(action: Callable[[], object], fault: str = "", timeout: float = 60.0) -> int:
    """Do `action` in a child, with FAULT in its environment; its exit code."""
    return finish(start(action, {"FAULT": fault} if fault else None), timeout)


def start_ranks(
    action: Callable[[World], object],
    size: int = 2,
    joined: bool = True,
    timeout: float = 30.0,
    environment: Mapping[str, str] | None = None,
) -> list[Child]:
    """`action` on `size` ranks, each a child with the environment that torchrun would give it.

    joined: they are a world when the action begins; else it makes them one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def on_rank() -> None:
        if not joined:
            action(World())
            return
        with open_world("cpu", timeout=timeout) as world:
            action(world)

    common = {**(environment or {}), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [start(on_rank, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(size)]


def call_ranks(action: Callable[[World], object], size: int = 2) -> list[int]:
    """`action` on all ranks; their exit codes."""
    return [finish(process) for process in start_ranks(action, size)]


def wait_for(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Wait until something has happened in a child."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.002)


def steps_of(exp: Path) -> list[int]:
    """The steps of the checkpoints that are there."""
    return [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(exp)]


def usable(exp: Path) -> list[int]:
    """The steps of the checkpoints that are whole."""
    return [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(exp) if not checkpoint.problems(path)]


def differences(one: Path, other: Path) -> list[str]:
    """Files of the last checkpoint (weights, optimizer, random state, counters) and log.jsonl that differ in a byte."""
    last = checkpoint.list_checkpoints(one)[-1].name
    folder = one / "checkpoints" / last
    names = [Path("log.jsonl"), *(path.relative_to(one) for path in sorted(folder.iterdir()))]
    return [str(n) for n in names if not (other / n).is_file() or (one / n).read_bytes() != (other / n).read_bytes()]
