"""What a run writes down: log.jsonl (no clock in it), timing.jsonl, TensorBoard; cut back to a checkpoint on resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.errors import DataError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG, TIMING, TENSORBOARD = "log.jsonl", "timing.jsonl", "tensorboard"
_DIGITS = 8


class RecordWriter:
    """Appends to the records of the experiment `exp`, whose log goes on at byte `log_size`, after step `step`.

    Raises DataError if the log is shorter than that: lines were lost.
    """

    def __init__(self, exp: Path, log_size: int, step: int, tensorboard: bool) -> None:
        if log_size and ((exp / LOG).stat().st_size if (exp / LOG).exists() else 0) < log_size:
            raise DataError(f"{exp / LOG}: shorter than at the checkpoint of step {step}; bring it back")
        self._log = open(exp / LOG, "ab")  # noqa: SIM115 (closed in `close`)
        self._log.truncate(log_size)
        self._log.seek(log_size)
        _cut(exp / TIMING, step)
        self._timing = open(exp / TIMING, "a", encoding="utf-8")  # noqa: SIM115
        self._board: SummaryWriter | None = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(exp / TENSORBOARD), purge_step=step + 1)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """One line of log.jsonl; numbers with 8 significant digits."""
        rounded = {name: _round(value) for name, value in metrics.items()}
        self._log.write(json.dumps({"step": step, "split": split, **rounded}).encode() + b"\n")
        self._log.flush()
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
            self._board.flush()

    def write_timing(self, step: int, timing: Mapping[str, float]) -> None:
        """One line of timing.jsonl."""
        rounded = {name: float(f"{value:.4g}") for name, value in timing.items()}
        self._timing.write(json.dumps({"step": step, **rounded}) + "\n")
        self._timing.flush()

    def sync(self) -> int:
        """Make the log durable; returns its size in bytes."""
        os.fsync(self._log.fileno())
        return self._log.tell()

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._timing.close()
        if self._board is not None:
            self._board.close()


def _round(value: float) -> float | int | None:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, int):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _cut(path: Path, step: int) -> None:
    """Leave out the lines after `step`, and a torn last one."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        with atomic_write(path) as handle:
            handle.writelines(kept)
