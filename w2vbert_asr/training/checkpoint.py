"""Checkpoints: `checkpoints/step-00000060/`, directories that are whole and verified, or not there.

model.safetensors  optimizer.safetensors  rank-00000.safetensors (random state and sums, one a rank)
state.json  MANIFEST.json (size and SHA-256 of each of the others, written last)
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from w2vbert_asr.data.faults import fault
from w2vbert_asr.data.files import atomic_dir, sha256
from w2vbert_asr.errors import DataError, ResourceError, summarize
from w2vbert_asr.tensors import load_tensors
from w2vbert_asr.training.state import TrainState, from_json

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"
_NAME = re.compile(r"step-(\d{8,})")
_log = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if nothing had happened. ranks: the tensors of each rank."""

    state: TrainState
    model: Tensors
    optimizer: Tensors
    ranks: Sequence[Tensors]


def save(exp: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, whole or not at all, and read it back.

    Raises ResourceError if it cannot be written; what was there before stays.
    """
    target = path_of(exp, checkpoint.state.step)
    try:
        fault("checkpoint.before_temp")
        with atomic_dir(target) as folder:
            _save_tensors(folder / MODEL, checkpoint.model)
            fault("checkpoint.mid_write")
            _save_tensors(folder / OPTIMIZER, checkpoint.optimizer)
            for rank, tensors in enumerate(checkpoint.ranks):
                _save_tensors(folder / _rank_file(rank), tensors)
            (folder / STATE).write_text(_dump(checkpoint.state.to_json()), encoding="utf-8")
            (folder / MANIFEST).write_text(_dump(_measure(folder)), encoding="utf-8")
            fault("checkpoint.before_fsync")
        fault("checkpoint.after_rename")
        damage = problems(target)
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"{target}: cannot be written ({error}); older checkpoints are whole: free the disk and run the same again"
        ) from error
    if damage:
        raise ResourceError(f"{target}: cannot be read back as written:\n{summarize(damage)}\n  check the disk")
    return target


def load(path: Path) -> Checkpoint:
    """Read a checkpoint (verified before, as `newest` does). Raises DataError naming what is missing."""
    state = read_state(path)
    files = [MODEL, OPTIMIZER, *(_rank_file(rank) for rank in range(state.world_size))]
    try:
        model, optimizer, *ranks = [load_tensors(path / name) for name in files]
    except DataError as error:
        raise DataError(f"{error}, or remove {path} to go on from an older one") from error
    return Checkpoint(state=state, model=model, optimizer=optimizer, ranks=ranks)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The model's tensors of a checkpoint. Raises DataError if it is damaged."""
    damage = problems(path)
    if damage:
        raise DataError(f"{path}: damaged:\n{summarize(damage)}\n  use another checkpoint")
    return load_tensors(path / MODEL)


def read_state(path: Path) -> TrainState:
    """`state.json` of a checkpoint."""
    try:
        tree = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path / STATE}: cannot be read ({error}); remove it to go on from an older one") from error
    return from_json(tree, str(path / STATE))


def list_checkpoints(exp: Path) -> list[Path]:
    """The checkpoints of an experiment by step, whole or not."""
    folder = exp / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=step_of)


def newest(exp: Path) -> Path:
    """The newest checkpoint that is whole; a warning names each that was passed over, and why.

    Raises DataError if there is none.
    """
    passed_over = []
    for path in reversed(list_checkpoints(exp)):
        damage = problems(path)
        if not damage:
            return path
        passed_over.append(f"{path.name}: {damage[0]}")
        _log.warning("%s: damaged, passed over (%s)", path, "; ".join(damage))
    if passed_over:
        raise DataError(
            f"{exp / 'checkpoints'}: every checkpoint is damaged:\n{summarize(passed_over)}\n"
            "  bring one back, or remove the folder to start from scratch"
        )
    raise DataError(f"{exp}: has no checkpoint; train it first (stages 3 and 4)")


def best(exp: Path, num: int) -> list[Path]:
    """The `num` best checkpoints by the criterion on dev, best first; the newest ones where nothing was evaluated."""
    last = newest(exp)
    scored = [path_of(exp, step) for _, step in read_state(last).best]
    chosen = [path for path in scored if path.is_dir()] or list_checkpoints(exp)[::-1]
    return chosen[:num]


def problems(path: Path) -> list[str]:
    """What is wrong with a checkpoint: damaged, missing and foreign files. Empty if it is whole."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        entries = json.loads(text)
    except (OSError, ValueError) as error:
        return [f"{MANIFEST}: {error.strerror if isinstance(error, OSError) else 'damaged'}"]
    if not isinstance(entries, dict) or text != _dump(entries):
        return [f"{MANIFEST}: damaged"]
    found = {file.name for file in path.iterdir()} - {MANIFEST}
    wrong = [f"{name}: not in {MANIFEST}" for name in sorted(found - entries.keys())]
    for name, entry in entries.items():
        if name not in found:
            wrong.append(f"{name}: missing")
        elif not (path / name).is_file() or entry != _measure_file(path / name):
            wrong.append(f"{name}: damaged")
    if not wrong:
        needed = {MODEL, OPTIMIZER, STATE, *map(_rank_file, range(_world_size(path)))}
        wrong = [f"{name}: missing" for name in sorted(needed - found)]
    return wrong


def require_match(path: Path, found: Tensors, wanted: Tensors) -> None:
    """Raises DataError naming every tensor that a checkpoint lacks, has beside the model's, or has in another shape."""
    wrong = [f"{name}: missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name}: not in the model" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        if found[name].shape != wanted[name].shape:
            wrong.append(f"{name}: shape {tuple(found[name].shape)}, in the model {tuple(wanted[name].shape)}")
    if wrong:
        raise DataError(f"{path}: does not fit the model:\n{summarize(sorted(wrong))}\n  choose another --out")


def prune(exp: Path, keep: Collection[int]) -> None:
    """Remove the checkpoints of other steps; each disappears at once, under another name, before it is deleted.

    Raises ResourceError if one cannot be removed.
    """
    for path in list_checkpoints(exp):
        if step_of(path) in keep:
            continue
        doomed = path.with_name(f".{path.name}.doomed")
        try:
            path.rename(doomed)
            fault("checkpoint.pruning")
            shutil.rmtree(doomed)
        except OSError as error:
            raise ResourceError(
                f"{path}: cannot be removed ({error}); mend the folder and run the same again"
            ) from error


def clean(exp: Path) -> None:
    """Take away what a killed process left half-written or half-deleted (the owner of the experiment only)."""
    folder = exp / "checkpoints"
    for path in folder.glob(".step-*") if folder.is_dir() else ():
        whole = path.with_name(path.name[1:].rpartition(".")[0])
        if path.suffix == ".old" and not whole.exists():
            path.rename(whole)
        else:
            shutil.rmtree(path)


def path_of(exp: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return exp / "checkpoints" / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def _rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def _save_tensors(path: Path, tensors: Tensors) -> None:
    """safetensors refuses tensors that share memory (tied weights): each is written as its own."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        plain[name] = one.clone() if one.data_ptr() in seen else one
        seen.add(one.data_ptr())
    safetensors.torch.save_file(plain, path)


def _measure(folder: Path) -> dict[str, Any]:
    return {file.name: _measure_file(file) for file in sorted(folder.iterdir())}


def _measure_file(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256(file)}


def _world_size(path: Path) -> int:
    tree = json.loads((path / STATE).read_text(encoding="utf-8")) if (path / STATE).is_file() else {}
    return int(tree.get("world_size", 1))


def _dump(tree: Any) -> str:
    """JSON in one form only, so that every changed byte of it shows."""
    return json.dumps(tree, indent=1) + "\n"
