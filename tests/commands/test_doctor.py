"""`w2vbert doctor` and `w2vbert config`."""

from __future__ import annotations

import ast
import importlib
import json
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2vbert_asr import cli
from w2vbert_asr.commands import doctor

ROOT = Path(__file__).parents[2]


def setup_lists() -> dict[str, Any]:
    """REQUIRED and EXTRAS as setup.py has them."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assigned}


def test_doctor_looks_for_what_setup_installs() -> None:
    lists = setup_lists()
    assert sorted([*doctor.REQUIRED, *doctor.OPTIONAL]) == sorted(lists["REQUIRED"])
    assert {extra: sorted(names) for extra, names in doctor.EXTRAS.items()} == {
        extra: sorted(names) for extra, names in lists["EXTRAS"].items()
    }


def test_constraints_pin_all_of_it() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    lists = setup_lists()
    wanted = {name for names in [lists["REQUIRED"], *lists["EXTRAS"].values()] for name in names}
    assert {name.lower() for name in wanted} <= pinned


def without(monkeypatch: pytest.MonkeyPatch, *broken: str) -> None:
    """Importing these modules fails."""
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> types.ModuleType:
        if name in broken:
            raise OSError(f"{name}.so: undefined symbol")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_doctor_is_content_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json", "--set", "extras=[test]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    findings = json.loads(lines[-1])["findings"]
    assert len(findings) == len(lines) - 1
    by_name = {finding["name"]: finding for finding in findings}
    assert by_name["torch"]["status"] == "ok" and by_name["cores"]["status"] == "ok"
    assert all(finding["remedy"] for finding in findings if finding["status"] != "ok")


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    without(monkeypatch, "kaldiio", "soxr")
    assert cli.main(["doctor"]) == 4
    shown = capsys.readouterr()
    assert "kaldiio: does not import: kaldiio.so: undefined symbol -> tools/install.sh" in shown.err
    assert "soxr: does not import" in shown.err


def test_doctor_does_without_torchaudio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """S10: what is optional is named, with the remedy, and is no failure."""
    without(monkeypatch, "torchaudio", "lhotse")
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torchaudio          does not import" in out and "install torch and torchaudio from one index" in out
    assert cli.main(["doctor", "--set", "extras=[bench]"]) == 4
    assert cli.main(["doctor", "--set", "extras=[benhc]"]) == 2


@pytest.mark.parametrize("verb", ["pretrain", "fbank", "doctor"])
def test_config_prints_defaults_that_load(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from w2vbert_asr.config import from_dict

    assert cli.main(["config", verb]) == 0
    text = capsys.readouterr().out
    required = text.splitlines()[0].partition(": ")[2].split(", ") if text.startswith("#") else []
    assert required == {"pretrain": ["train", "dev", "out"], "fbank": ["data", "out"], "doctor": []}[verb]
    cls = importlib.import_module(f"w2vbert_asr.commands.{verb}").Config
    given = {"train": ["a"], "dev": "b", "out": "c", "data": "d"}
    loaded = from_dict(cls, yaml.safe_load(text) | {name: given[name] for name in required})
    values = {name: (Path("a"),) if name == "train" else Path(given[name]) for name in required}
    assert loaded == cls(**values)


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["decod"], "did you mean decode?"), (["experiment"], "unknown verb"), ([], "verb is required")],
)
def test_config_of_no_verb(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", *argv]) == 2
    assert message in capsys.readouterr().err
