from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.speech import edit, make_dir
from w2vbert_asr.cli import main


def test_report_and_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = make_dir(tmp_path / "good", seed=1), make_dir(tmp_path / "bad", seed=2)
    edit(bad / "text", "WORDS OF S1-U1", "<s> WORDS")
    assert main(["validate", str(good), str(bad), "--num-jobs", "1", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == [
        f"{good}: valid",
        f"{bad}: warning: text:3: s1-u1: has one of the reserved words <s> </s> #0; remove it",
        f"{bad}: valid (1 warning(s))",
    ]
    assert json.loads(out[3])[str(bad)] == {"error": 0, "warning": 1, "note": 0}
    assert main(["validate", str(good), str(bad), "--num-jobs", "1", "--strict"]) == 3
    captured = capsys.readouterr()
    assert f"{bad}: not valid (1 error(s))" in captured.out and f"{good}: valid" in captured.out
    assert captured.err.startswith(f"w2vbert validate: {bad}: 1 error(s), listed above")


def test_without_audio(tmp_path: Path) -> None:
    folder = make_dir(tmp_path)
    (tmp_path / "audio" / "s0-u0.wav").unlink()
    assert main(["validate", str(folder), "--num-jobs", "1"]) == 3
    assert main(["validate", str(folder), "--no-audio"]) == 0


def test_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "none")]) == 3
    assert "no such data directory" in capsys.readouterr().err
    assert main(["validate", str(tmp_path), "--num-jobs", "-1"]) == 2
    assert main(["validate"]) == 2
