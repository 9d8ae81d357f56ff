"""An experiment folder at the start of a run: what is resumed, what has changed, and what is written down first."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from w2vbert_asr import config as configuration
from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.errors import ConfigError, summarize
from w2vbert_asr.training.distributed import World
from w2vbert_asr.training.state import TrainState

CONFIG, ENVIRONMENT, STARTS = "config.yaml", "environment.json", "starts.jsonl"
_log = logging.getLogger(__name__)

# Keys that a resumed run may change: they move no weight (the data itself is compared by digest), or, like max_steps,
# only what is still to come.
_HARMLESS = frozenset(
    {"train", "dev", "tokenizer", "data.num_workers"}
    | {
        f"trainer.{key}"
        for key in (
            "max_steps", "save_every", "eval_every", "log_every", "keep", "keep_best", "patience", "device", "timeout",
            "tensorboard", "divergence_factor", "allow_change",
        )
    }
)  # fmt: skip


def changes(state: TrainState, resolved: Mapping[str, Any], digests: Mapping[str, str], allow: bool) -> list[str]:
    """What differs from the run that wrote `state`, a line each.

    Raises ConfigError with the whole difference if it is more than harmless, unless `allow`.
    """
    here = {key: value for key, value in resolved.items() if key != "out"}  # the folder may be moved
    config = configuration.difference(state.config, here)
    lines = {key: f"{key}: {_shown(old)} -> {_shown(new)}" for key, (old, new) in config.items()}
    data = configuration.difference(state.digests, digests)
    lines |= {key: f"digest of {key}: {str(old)[:12]} -> {str(new)[:12]}" for key, (old, new) in data.items()}
    harmful = [line for key, line in lines.items() if key in data or key not in _HARMLESS]
    if harmful and not allow:
        raise ConfigError(
            f"the run has changed since step {state.step}:\n{summarize(harmful, limit=40)}\n"
            "  change it back, choose another --out, or go on with --allow-change"
        )
    return list(lines.values())


def versions() -> dict[str, str]:
    """Versions on which the numbers depend."""
    names = ("w2vbert_asr", "torch", "numpy", "safetensors", "soundfile", "soxr", "sentencepiece")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_down(exp: Path, resolved: Mapping[str, Any], world: World, start: Mapping[str, Any]) -> None:
    """config.yaml and environment.json as they are now, and a line of starts.jsonl for this start."""
    with atomic_write(exp / CONFIG) as handle:
        handle.write(configuration.dump(resolved))
    environment = {
        "command": sys.argv,
        "revision": _revision(),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "world_size": world.size,
    }
    with atomic_write(exp / ENVIRONMENT) as handle:
        handle.write(json.dumps(environment, indent=1) + "\n")
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    line = {"time": when, "host": socket.gethostname(), "pid": os.getpid(), "command": sys.argv, **start}
    with open(exp / STARTS, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")


def note_other_versions(state: TrainState, world: World) -> None:
    """Say what the promise of equal bits does not cover."""
    for name, (old, new) in configuration.difference(state.versions, versions()).items():
        _log.warning("%s was %s at the checkpoint and is %s now: numbers may differ in the last bits", name, old, new)
    if state.world_size != world.size:
        message = "%d ranks at the checkpoint, %d now: numbers may differ in the last bits"
        _log.warning(message, state.world_size, world.size)


def _shown(value: Any) -> str:
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)


def _revision() -> str | None:
    """The git revision of the package, where it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
