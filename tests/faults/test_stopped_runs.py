"""FAULTS.md C01, C02, C07, C08, X01: a run that is killed or stopped ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.training import toy
from tests.training.runs import (
    CHECKPOINT_POINTS,
    call,
    call_ranks,
    differences,
    finish,
    start,
    start_ranks,
    steps_of,
    usable,
)
from w2vbert_asr.batch import Batch
from w2vbert_asr.data.dataset import _start_worker
from w2vbert_asr.training import checkpoint, update
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.optimizer import Optimizers
from w2vbert_asr.training.signals import catch_signals, exit_code

ROOT = Path(__file__).resolve().parents[2]


def stopping_at(position: int, number: int) -> Callable[[toy.ToyLoader, int], Iterator[Batch]]:
    """A loader's `iterate` during which this process is sent a signal."""
    original = toy.ToyLoader.iterate

    def iterate(self: toy.ToyLoader, start_position: int) -> Iterator[Batch]:
        for at, batch in enumerate(original(self, start_position), start_position):
            if at == position:
                os.kill(os.getpid(), number)
            yield batch

    return iterate


def test_c01_killed_at_random_moments(tmp_path: Path) -> None:
    long = {"max_steps": 60, "save_every": 7}
    assert call(lambda: toy.run(tmp_path / "whole", **long)) == 0
    exp = tmp_path / "killed"
    rng = random.Random(1)
    killed = 0
    while killed < 5:
        process = start(lambda: toy.run(exp, **long))
        time.sleep(rng.uniform(0.01, 0.25))
        process.kill()
        killed += finish(process) == -signal.SIGKILL
        if usable(exp)[-1:] == [60]:
            shutil.rmtree(exp)
    assert call(lambda: toy.run(exp, **long)) == 0
    assert differences(tmp_path / "whole", exp) == []


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("point", CHECKPOINT_POINTS)
def test_c02_killed_at_each_point(point: str, hit: int, undisturbed: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    assert call(lambda: toy.run(exp), fault=f"{point}:kill:{hit}") == -signal.SIGKILL
    assert usable(exp) == steps_of(exp)
    assert usable(exp) or hit == 1
    assert call(lambda: toy.run(exp)) == 0
    assert differences(undisturbed, exp) == []
    assert not [path for path in (exp / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("planted", ["per-step seeds", "optimizer", "position", "running statistics"])
def test_c02_a_planted_bug_is_found(planted: str, undisturbed: Path, tmp_path: Path) -> None:
    def broken() -> None:
        if planted == "per-step seeds":
            update.seed_draws = lambda *_: None
        elif planted == "optimizer":
            Optimizers.load_state = lambda *_: None  # type: ignore[assignment, method-assign]
        elif planted == "position":
            original = toy.ToyLoader.iterate
            toy.ToyLoader.iterate = lambda self, _: original(self, 0)  # type: ignore[method-assign]
        else:
            plain = checkpoint.load
            checkpoint.load = lambda path: _with_fresh_buffers(plain(path))
        toy.run(exp)

    exp = tmp_path / "exp"
    assert call(broken, fault="checkpoint.after_rename:kill:2") == -signal.SIGKILL
    assert call(broken) == 0
    assert "checkpoints/step-00000020/model.safetensors" in differences(undisturbed, exp)


def _with_fresh_buffers(saved: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    fresh = {name: torch.zeros_like(one) if "running_mean" in name else one for name, one in saved.model.items()}
    return checkpoint.Checkpoint(state=saved.state, model=fresh, optimizer=saved.optimizer, ranks=saved.ranks)


def test_c02_three_ranks_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(exp: Path, world: World) -> None:
        toy.run(exp, toy.WideModel(), world, max_steps=8)

    whole, exp = tmp_path / "whole", tmp_path / "exp"
    assert call_ranks(lambda world: train(whole, world), size=3) == [0, 0, 0]
    with monkeypatch.context() as patched:
        patched.setenv("FAULT", "checkpoint.before_fsync:kill:2")
        ranks = start_ranks(lambda world: train(exp, world), size=3)
        assert finish(ranks[0]) == -signal.SIGKILL
    for process in ranks[1:]:
        process.kill()
        finish(process)
    assert usable(exp) == [4]
    assert call_ranks(lambda world: train(exp, world), size=3) == [0, 0, 0]
    assert differences(whole, exp) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_c07_signal_in_mid_step(
    number: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = tmp_path / "exp"
    with monkeypatch.context() as patched:
        patched.setattr(toy.ToyLoader, "iterate", stopping_at(10, number))
        patched.setenv("TORCHELASTIC_RUN_ID", "test")
        assert call(lambda: toy.run(exp)) == (130 if number == signal.SIGINT else 75)
    assert steps_of(exp)[-1] == 11
    preempted = exp / "preempted.json"
    if number != signal.SIGINT:
        wanted = {"step": 11, "signal": signal.Signals(number).name, "exit_code": 75}
        assert json.loads(preempted.read_text()) == wanted
    assert call(lambda: toy.run(exp)) == 0
    assert differences(undisturbed, exp) == []
    assert not preempted.exists()


def test_c07_the_second_signal_exits_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def iterate(self: toy.ToyLoader, start_position: int) -> Iterator[Batch]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
        yield toy.make_batch(0)

    monkeypatch.setattr(toy.ToyLoader, "iterate", iterate)
    assert call(lambda: toy.run(tmp_path / "exp"), timeout=10.0) == 130
    assert exit_code(signal.SIGTERM) == 75


@pytest.mark.parametrize(("pause", "code"), [(0.0, 75), (2.1, 75)])
def test_c07_an_echo_of_a_sigterm_is_no_second_one(
    pause: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = toy.ToyLoader.iterate

    def iterate(self: toy.ToyLoader, start_position: int) -> Iterator[Batch]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
        yield from original(self, start_position)

    monkeypatch.setattr(toy.ToyLoader, "iterate", iterate)
    assert call(lambda: toy.run(tmp_path / "exp")) == code
    assert bool(steps_of(tmp_path / "exp")) == (pause == 0.0)  # saved; or left at once


def test_c07_a_signal_to_the_whole_group_leaves_the_workers() -> None:
    def group() -> None:
        os.setpgid(0, 0)
        loader = DataLoader(list(range(30)), batch_size=None, num_workers=1, worker_init_fn=_start_worker)
        with catch_signals() as stop:
            for number in loader:
                if number == 3:
                    os.killpg(0, signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and number == 29

    assert call(group) == 0


def test_x01_two_hosts_lose_a_rank_and_torchrun_starts_them_again(tmp_path: Path) -> None:
    """Two torchrun agents that meet over a loopback rendezvous, as two hosts do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole, exp = tmp_path / "whole", tmp_path / "exp"
    assert call_ranks(lambda world: toy.run(whole, world=world)) == [0, 0]
    line = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    line += ["--max-restarts", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    line += ["--rdzv-conf", "join_timeout=60,last_call_timeout=1", "--monitor-interval", "0.1"]
    line += ["-m", "tests.training.toy", str(exp), json.dumps({"kill_rank_1_at": 9})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    agents = [subprocess.Popen(line, cwd=ROOT, env=environment, text=True, **pipes) for _ in range(2)]
    try:
        said = [agent.communicate(timeout=240)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], said
    starts = [json.loads(one) for one in (exp / "starts.jsonl").read_text().splitlines()]
    assert [one["resumed_from"] for one in starts] == [None, "step-00000008"]
    assert differences(whole, exp) == []


def test_c07_a_signal_to_one_rank_stops_both(tmp_path: Path) -> None:
    whole, exp = tmp_path / "whole", tmp_path / "exp"

    def on_rank(world: World) -> None:
        if world.rank == 1:
            toy.ToyLoader.iterate = stopping_at(9, signal.SIGTERM)  # type: ignore[method-assign]
        toy.run(exp, world=world)

    assert call_ranks(on_rank) == [75, 75]
    assert steps_of(exp)[-1] == 10
    assert call_ranks(lambda world: toy.run(exp, world=world)) == [0, 0]
    assert call_ranks(lambda world: toy.run(whole, world=world)) == [0, 0]
    assert differences(whole, exp) == []


@pytest.mark.parametrize("point", ["checkpoint.mid_write", "checkpoint.after_rename"])
def test_c08_signal_during_saving(point: str, undisturbed: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    assert call(lambda: toy.run(exp), fault=f"{point}:term:2") == 75
    assert usable(exp) == steps_of(exp)
    assert call(lambda: toy.run(exp)) == 0
    assert differences(undisturbed, exp) == []


def test_c08_signal_during_validation(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = tmp_path / "exp"
    original = toy.make_batch

    class SignalInDev:
        def __iter__(self) -> Iterator[Batch]:
            os.kill(os.getpid(), signal.SIGTERM)
            return iter([original(10_000 + i) for i in range(3)])

    def interrupted() -> None:
        toy.run(exp, dev=SignalInDev())

    assert call(interrupted) == 75
    assert steps_of(exp)[-1] == 6
    assert not [line for line in (exp / "log.jsonl").read_text().splitlines() if json.loads(line)["split"] == "dev"]
    assert call(lambda: toy.run(exp)) == 0
    assert differences(undisturbed, exp) == []
