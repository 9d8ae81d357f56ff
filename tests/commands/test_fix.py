from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.speech import make_dir
from w2vbert_asr.cli import main


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dir(tmp_path, 6)
    for name in ("s0-u0", "s1-u5"):
        (tmp_path / "audio" / f"{name}.wav").write_bytes(b"")
    (tmp_path / "audio" / "s1-u1.wav").unlink()
    assert main(["fix", str(folder), "--out", str(tmp_path / "new"), "--num-jobs", "1", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == [
        f"{tmp_path / 'new'}: 3 utterance(s) left out, see {tmp_path / 'new' / 'left_out.tsv'}",
        "  2 empty",
        "  1 missing",
    ]
    assert json.loads(out[-1]) == {"left_out": {"empty": 2, "missing": 1}}
    assert main(["validate", str(tmp_path / "new"), "--strict", "--num-jobs", "1"]) == 0


def test_the_copy_of_a_copy_is_the_same(tmp_path: Path) -> None:
    make_dir(tmp_path)
    for source, out in (("data", "one"), ("one", "two")):
        assert main(["fix", str(tmp_path / source), "--out", str(tmp_path / out), "--num-jobs", "1"]) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(make_dir(tmp_path))
    assert main(["fix", folder]) == 2
    assert main(["fix", folder, "--out", folder]) == 3
    assert main(["fix", folder, "--out", "x", "--encoding", "rot13"]) == 2
    assert "encoding" in capsys.readouterr().err
