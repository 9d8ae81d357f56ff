"""The command line: exit codes, options, the JSON line. Verbs are stand-ins where only the frame is tested."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from w2vbert_asr import cli, errors


@dataclass(frozen=True, kw_only=True)
class Trainer:
    max_steps: int = 10
    allow_change: bool = False
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Config:
    train: tuple[Path, ...]
    dev: Path
    out: Path
    init: Path | None = None
    trainer: Trainer = Trainer()


Action = Callable[[Config], dict[str, object] | None]
Pretrain = Callable[[Action], None]


@pytest.fixture
def pretrain(monkeypatch: pytest.MonkeyPatch) -> Pretrain:
    """Replaces what `w2vbert pretrain` does."""

    def install(action: Action) -> None:
        module = types.ModuleType("w2vbert_asr.commands.pretrain")
        module.Config = Config  # type: ignore[attr-defined]
        module.run = action  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


LINE = ["pretrain", "--train", "a", "b", "--dev", "c", "--out", "d"]


def raising(error: BaseException) -> Action:
    def action(config: Config) -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (errors.ConfigError("the message"), 2, False),
        (errors.DataError("the message"), 3, False),
        (errors.SetupError("the message"), 4, False),
        (errors.ResourceError("the message"), 5, False),
        (errors.NumericsError("the message"), 6, False),
        (errors.Preempted("the message"), 75, False),
        (MemoryError("the message"), 5, False),
        (OSError(errno.ENOSPC, "the message", "file"), 5, False),
        (PermissionError(errno.EACCES, "the message", "file"), 5, False),
        (FileNotFoundError(errno.ENOENT, "the message", "file"), 1, True),
        (ValueError("the message"), 1, True),
    ],
)
def test_exit_codes(
    error: Exception, code: int, traceback: bool, pretrain: Pretrain, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(raising(error))
    assert cli.main([*LINE, "--json"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "the message" in shown.err
    assert ("Traceback" in shown.err) == traceback


def test_interrupt_is_130(pretrain: Pretrain) -> None:
    pretrain(raising(KeyboardInterrupt()))
    assert cli.main(LINE) == 130


def test_json_is_one_object_on_the_last_line(pretrain: Pretrain, capsys: pytest.CaptureFixture[str]) -> None:
    def action(config: Config) -> dict[str, object]:
        print("done")
        return {"steps": config.trainer.max_steps, "name": "é\n"}

    pretrain(action)
    assert cli.main([*LINE, "--json", "--max-steps", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "done" and json.loads(lines[1]) == {"steps": 3, "name": "é\n"} and len(lines) == 2
    pretrain(lambda config: None)
    assert cli.main([*LINE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_options_reach_their_keys(pretrain: Pretrain, tmp_path: Path) -> None:
    seen: list[Config] = []
    pretrain(lambda config: seen.append(config))
    file = tmp_path / "run.yaml"
    file.write_text("trainer: {max_steps: 1, device: cuda}\n")
    spellings = (["--max-steps", "5"], ["--max_steps", "5"], ["--max-steps=5"], ["--set", "trainer.max-steps=5"])
    for spelling in spellings:
        assert cli.main([*LINE, "--config", str(file), *spelling, "--allow_change"]) == 0
    expected = Config(
        train=(Path("a"), Path("b")),
        dev=Path("c"),
        out=Path("d"),
        trainer=Trainer(max_steps=5, allow_change=True, device="cuda"),
    )
    assert seen == [expected] * 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "usage: w2vbert VERB"),
        (["pretrian"], "unknown verb 'pretrian'; did you mean pretrain?"),
        (["zzzz"], "usage: w2vbert VERB"),
        ([*LINE, "--max-stps", "3"], "unknown option --max-stps; did you mean --max-steps?"),
        ([*LINE, "--max-step", "3"], "unknown option --max-step; did you mean --max-steps?"),
        ([*LINE, "--zzzz"], "unknown option --zzzz; see --help"),
        ([*LINE, "--max-steps", "2.7"], "invalid int value: '2.7'"),
        ([*LINE, "--set", "trainer.max_step=3"], "unknown key trainer.max_step; did you mean trainer.max_steps?"),
        (LINE[:4], "dev is required"),
        (LINE[:4], "out is required"),
    ],
)
def test_usage_errors(argv: list[str], message: str, pretrain: Pretrain, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(lambda config: pytest.fail("must not run"))
    assert cli.main(argv) == 2
    shown = capsys.readouterr()
    assert message in shown.out + shown.err


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"], ["pretrain", "--help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    assert "usage: w2vbert" in capsys.readouterr().out


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "w2vbert_asr", "decod"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean decode?" in done.stderr


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_argument_of_a_verb_is_a_key_of_its_configuration(verb: str) -> None:
    import importlib
    import typing
    from dataclasses import fields

    module = importlib.import_module(f"w2vbert_asr.commands.{verb}")
    assert module.run.__module__.startswith("w2vbert_asr.commands")
    for arg in cli.VERBS[verb].args:
        cls = module.Config
        for name in arg.target.split("."):
            assert name in {field.name for field in fields(cls)}, f"{verb} {arg.name}: no key {arg.target}"
            cls = typing.get_type_hints(cls)[name]
