"""What a killed task has left is used as far as it is whole, and only for the same task."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from w2vbert_asr.data import journal

TASK = {"model": "a", "data": "b"}


def write(folder: Path, *parts: tuple[int, object]) -> Path:
    writer = journal.Writer(folder)
    for part, result in parts:
        writer.append(part, result)
    writer.close()
    return max(folder.glob(journal.RESULTS), key=lambda path: path.stat().st_mtime_ns)


def test_results_of_several_processes(tmp_path: Path) -> None:
    assert journal.begin(tmp_path / "new" / "journal", TASK) == {}
    folder = tmp_path / "new" / "journal"
    write(folder, (3, {"text": "é\u2028\n"}), (0, [1.5]))
    write(folder, (1, None))
    assert journal.begin(folder, TASK) == {0: [1.5], 1: None, 3: {"text": "é\u2028\n"}}


def test_i06_a_line_cut_anywhere_is_not_there(tmp_path: Path) -> None:
    journal.begin(tmp_path, TASK)
    path = write(tmp_path, (0, "first"), (1, {"second": [1, 23]}))
    whole = path.read_bytes()
    begin = whole.index(b"\n") + 1
    for cut in range(begin, len(whole)):
        path.write_bytes(whole[:cut])
        assert journal.begin(tmp_path, TASK) == {0: "first"}
        path.write_bytes(whole[:cut] + b"\0" * 20)  # as after a power cut
        assert journal.begin(tmp_path, TASK) == {0: "first"}
    write(tmp_path, (1, "again"))
    assert journal.begin(tmp_path, TASK) == {0: "first", 1: "again"}
    path.write_bytes(whole.replace(b"first", b"fi\xffst"))
    assert journal.begin(tmp_path, TASK).keys() == {1}
    path.write_bytes(b"7\n[]\n{}\n[1, 2, 3]\n")
    assert journal.begin(tmp_path, TASK) == {1: "again"}


def test_another_task_begins_anew_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal.begin(tmp_path, TASK)
    write(tmp_path, (0, "first"))
    with caplog.at_level(logging.WARNING):
        assert journal.begin(tmp_path, TASK) == {0: "first"}
        assert caplog.messages == []
        assert journal.begin(tmp_path, {**TASK, "model": "other"}) == {}
    assert "another model;" in caplog.messages[0]
    assert journal.begin(tmp_path, TASK) == {}
    write(tmp_path, (0, "first"))
    (tmp_path / journal.TASK).write_text(json.dumps(TASK)[:5])
    assert journal.begin(tmp_path, TASK) == {}
