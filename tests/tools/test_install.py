"""tools/install.sh without a network: a stand-in for Python records what the installer asks of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Makes a virtual environment whose python and w2vbert record their arguments, fail where $FAIL_AT names them, and kill
# the installer where $KILL_AT does.
PYTHON = r"""#!/usr/bin/env bash
set -eu
case $1 in
  -c) exec "$REAL_PYTHON" "$@" ;;
  -m)
    [[ ${FAIL_AT-} != venv ]] || exit 1
    venv=${@: -1}
    [[ " $* " != *" --clear "* ]] || rm -r "$venv"
    mkdir -p "$venv/bin"
    for name in python w2vbert; do
      ln -sf "$RECORDER" "$venv/bin/$name"
    done
    echo "venv $*" >>"$CALLS"
    ;;
esac
"""
RECORDER = r"""#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
[[ "$*" != *"${KILL_AT-nothing}"* ]] || kill -9 $PPID
[[ "$*" != *"${FAIL_AT-nothing}"* ]]
"""


class Checkout:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.calls_file = folder / "calls"
        (self.root / "tools").mkdir(parents=True)
        for name in ("tools/install.sh", "setup.py", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self.python, self.recorder = folder / "python", folder / "recorder"
        for path, text in ((self.python, PYTHON), (self.recorder, RECORDER)):
            path.write_text(text)
            path.chmod(0o755)

    def install(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHON": str(self.python),
            "REAL_PYTHON": sys.executable,
            "RECORDER": str(self.recorder),
            "CALLS": str(self.calls_file),
            **env,
        }
        command = ["bash", "-c", 'umask 077 && exec "$0" "$@"', str(self.root / "tools/install.sh"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[str]:
        calls = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return calls


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_installs_once(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    venv, _, pip, check = checkout.calls()
    assert venv.startswith("venv -m venv ") and "--clear" not in venv
    assert pip.startswith("python -m pip install ") and f"-c {checkout.root}/constraints.txt" in pip
    assert pip.endswith(f"-e {checkout.root}[mini,test,bench]")
    assert check == "w2vbert doctor --set extras=[mini,test,bench]"
    done = checkout.install()
    assert (done.returncode, done.stdout, done.stderr, checkout.calls()) == (0, "", "", [])


def test_installs_again_when_dependencies_change(checkout: Checkout) -> None:
    assert checkout.install("--extras", "mini").returncode == 0
    assert checkout.calls()[2].endswith("[mini]")
    assert checkout.install().returncode == 0 and checkout.calls() == []  # keeps the extras
    assert checkout.install("--extras=mini,test").returncode == 0 and len(checkout.calls()) == 4
    with (checkout.root / "constraints.txt").open("a") as file:
        file.write("another==1.0\n")
    assert checkout.install().returncode == 0
    assert checkout.calls()[2].endswith("[mini,test]")


@pytest.mark.parametrize(
    ("fail_at", "message"),
    [
        ("venv", "cannot make a virtual environment (Debian: apt-get install python3-venv)"),
        ("pip --version", "has no pip"),
        ("pip install", "pip could not install the dependencies"),
        ("doctor", "what was installed does not work"),
    ],
)
def test_what_fails_is_said_and_done_again(checkout: Checkout, fail_at: str, message: str) -> None:
    done = checkout.install(FAIL_AT=fail_at)
    assert done.returncode == 4 and message in done.stderr
    checkout.calls()
    assert checkout.install().returncode == 0
    calls = checkout.calls()
    assert len(calls) == 4 and "--clear" not in calls[0]


def test_packages_by_halves_are_cleared_away(checkout: Checkout) -> None:
    assert checkout.install(KILL_AT="pip install").returncode == -9
    checkout.calls()
    assert checkout.install().returncode == 0
    calls = checkout.calls()
    assert len(calls) == 4 and "--clear" in calls[0]


def test_python_is_missing_or_too_old(checkout: Checkout) -> None:
    done = checkout.install(PYTHON="no-such-python")
    assert done.returncode == 4 and "no-such-python is not on PATH" in done.stderr
    checkout.python.write_text("#!/usr/bin/env bash\n[[ $1 == --version ]] && echo Python 3.9.0\n")
    done = checkout.install()
    assert done.returncode == 4 and "Python 3.9.0 is too old" in done.stderr
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("arguments", [["--extra", "mini"], ["--extras"], ["mini"]])
def test_usage(checkout: Checkout, arguments: list[str]) -> None:
    assert checkout.install(*arguments).returncode == 2
    assert checkout.calls() == []
