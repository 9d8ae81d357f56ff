"""Results of a long task, kept as they come: what was killed goes on with the parts that are missing.

The folder holds `task.json`, which says what the results are of, and a file for each process that has written any. A
process writes to a file of its own, so a line that a kill cut short is the last of its file; it is left out, and its
part is done again. A part that stands there twice (from a process that outlived its command) was computed twice with
the same result.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2vbert_asr.data.faults import fault
from w2vbert_asr.data.files import atomic_write, sync_folder

TASK, RESULTS = "task.json", "results-*.jsonl"
_log = logging.getLogger(__name__)


def begin(folder: Path, task: Mapping[str, str]) -> dict[int, Any]:
    """The results so far, by part, of this task; of another one they are removed, with a warning that says why.

    task: what decides the results, digests of the parts that it consists of, by their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _read_task(folder / TASK)
    if before != task:
        old = sorted(folder.glob(RESULTS))
        if old:
            changed = sorted(name for name in {*before, *task} if before.get(name) != task.get(name))
            _log.warning("%s: results of a run with another %s; begins anew", folder, " and ".join(changed))
        for path in old:
            path.unlink()
        with atomic_write(folder / TASK) as file:
            json.dump(dict(task), file)
    return read(folder)


def read(folder: Path) -> dict[int, Any]:
    """Every result that is whole, by part."""
    found: dict[int, Any] = {}
    for path in sorted(folder.glob(RESULTS)):
        with open(path, "rb") as lines:
            for line in lines:
                try:
                    part, result = json.loads(line) if line.endswith(b"\n") else (None, None)
                except (ValueError, TypeError):
                    continue
                if isinstance(part, int):
                    found[part] = result
    return found


class Writer:
    """A file of results in the journal `folder`, of this process alone."""

    def __init__(self, folder: Path) -> None:
        before, after = RESULTS.split("*")
        self._handle, _ = tempfile.mkstemp(prefix=before, suffix=after, dir=folder)
        sync_folder(folder)

    def append(self, part: int, result: object) -> None:
        """Write a result (JSON) that is on the disk when this returns."""
        line = json.dumps([part, result], ensure_ascii=False).encode() + b"\n"
        fault("journal.before_write")
        self._write(line[: len(line) // 2])
        fault("journal.mid_write")
        self._write(line[len(line) // 2 :])
        os.fsync(self._handle)
        fault("journal.after_write")

    def close(self) -> None:
        os.close(self._handle)

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._handle, content) :]


def _read_task(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
