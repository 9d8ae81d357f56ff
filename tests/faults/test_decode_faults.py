"""FAULTS.md I01, I06: a decoding that is killed, or one of whose processes dies, loses and repeats nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.speech import make_dir
from tests.test_documentation import write_tiny_model
from w2vbert_asr.cli import main
from w2vbert_asr.training.lock import own

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ("text", "hyp.jsonl", "ctm", "decode.json")
POINTS = (
    "journal.before_write",
    "journal.mid_write",
    "journal.after_write",
    "atomic_dir.before_rename",
    "decode.before_cleanup",
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data of six batches, and their decoding by one process."""
    root = tmp_path_factory.mktemp("decode")
    write_tiny_model(root / "model", blank_bias=4.0, contrast=6.0)
    make_dir(root, num_utts=12)
    assert main(line(root, root / "whole")) == 0
    return root


def line(work: Path, out: Path, *more: object) -> list[str]:
    found = ["decode", "--model", work / "model", "--data", work / "data", "--out", out, "--num-jobs", 1]
    return [str(part) for part in (*found, "--set", "batch_seconds=1.1", *more)]


def command(argv: list[str], fault: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FAULT": fault}
    argv = [sys.executable, "-m", "w2vbert_asr", *argv]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)


def output(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUT}


def journal_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.journal")


def test_i01_killed_at_every_point_in_turn(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for point in POINTS:
        assert command(line(work, out), f"{point}:kill").returncode == -signal.SIGKILL, point
    assert main(line(work, out)) == 0
    assert output(out) == output(work / "whole")
    ids = [json.loads(one)["utt_id"] for one in (out / "hyp.jsonl").read_text().splitlines()]
    assert ids == [one.partition(" ")[0] for one in (work / "data/wav.scp").read_text().splitlines()]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_i01_what_is_decoded_is_not_decoded_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert command(line(work, out), "journal.after_write:kill:4").returncode == -signal.SIGKILL
    (results,) = journal_of(out).glob("results-*")
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    marked = [text.replace('"score"', '"planted": 1, "score"', 1) for text in lines]
    results.write_text("".join(marked), encoding="utf-8")
    with caplog.at_level("INFO"):
        assert main(line(work, out)) == 0
    assert "4 of 6 batches are decoded" in caplog.text
    assert (out / "hyp.jsonl").read_text().count('"planted"') == 4


def test_i01_a_worker_that_dies_costs_nothing_but_its_batch(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command(line(work, out, "--num-jobs", 2), "journal.after_write:kill")
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert "2 utterance(s) ends its process" in done.stderr and "s0-u" in done.stderr
    assert list(journal_of(out).glob("results-*")) and not out.exists()
    assert main(line(work, out)) == 0
    assert output(out) == output(work / "whole")


def test_i01_any_number_of_processes(work: Path, tmp_path: Path) -> None:
    assert main(line(work, tmp_path / "two", "--num-jobs", 2)) == 0
    assert output(tmp_path / "two") == output(work / "whole")
    timing = json.loads((tmp_path / "two/timing.json").read_text())
    assert timing["processes"] == 2 and timing["real_time_factor"] > 0


def test_i01_another_model_search_or_data_begins_anew(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_dir(tmp_path, num_utts=12)
    other = ["decode", "--model", str(work / "model"), "--data", str(data), "--out", str(tmp_path / "out")]
    other += ["--num-jobs", "1", "--set", "batch_seconds=1.1"]
    (tmp_path / "second").mkdir()
    write_tiny_model(tmp_path / "second/model", blank_bias=4.0, contrast=6.0)
    manifest = tmp_path / "second/model/MANIFEST.json"
    manifest.write_text(manifest.read_text() + " ")
    for name, argv in (
        ("data", line(work, tmp_path / "out")),
        ("search", [*other, "--beam-size", "3"]),
        ("model", [*other, "--model", str(tmp_path / "second/model")]),
    ):
        assert command(other, "journal.after_write:kill:3").returncode == -signal.SIGKILL
        caplog.clear()
        assert main(argv) == 0
        assert f"another {name};" in caplog.text
        caplog.clear()
    assert main(other) == 0


def test_i01_one_command_at_a_time(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with own(journal_of(out), "decoding"):
        assert main(line(work, out)) == 5
    assert f"process {os.getpid()} on" in (said := capsys.readouterr().err) and "is decoding here" in said


def test_i06_a_torn_last_line_is_decoded_again(work: Path, tmp_path: Path) -> None:
    for share in (0.1, 0.5, 0.99):
        out = tmp_path / f"out{share}"
        assert command(line(work, out), "journal.after_write:kill:3").returncode == -signal.SIGKILL
        (results,) = journal_of(out).glob("results-*")
        content = results.read_bytes()
        last = content.rindex(b"\n", 0, -1) + 1
        results.write_bytes(content[: last + int(share * (len(content) - last))])
        assert main(line(work, out)) == 0
        assert output(out) == output(work / "whole")
