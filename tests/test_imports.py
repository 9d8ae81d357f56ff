"""Who may import whom: the rows of docs/architecture.md, read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "w2vbert_asr"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A part imports parts of the rows above its own, and itself. Within the first row: config reads errors.
ROWS = [
    {"errors"},
    {"config", "batch", "allocator", "collectives", "counter_random"},
    {"scoring", "text", "features", "modules", "losses"},
    {"data", "models"},
    {"corpora", "search", "training"},
    {"model_folder"},
    {"recognizer"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
ROW = {part: number for number, row in enumerate(ROWS) for part in row}
# Where the design says more than the row does.
ONLY = {
    "data": {"features", "text"} | ROWS[0] | ROWS[1],
    "models": {"modules", "losses"} | ROWS[0] | ROWS[1],
    "corpora": {"data", "text"} | ROWS[0] | ROWS[1],
}


def part_of(path: Path) -> str:
    """modules/attention.py -> modules, cli.py -> cli; the package's own __init__ is __init__."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, part) of every import of this package, wherever in the file it stands."""
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole name"
            names = [node.module or ""]
            if node.module == "w2vbert_asr":
                names = [f"w2vbert_asr.{alias.name}" for alias in node.names]
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("w2vbert_asr.")]
    return found


def offences(path: Path, text: str) -> list[str]:
    part = part_of(path)
    if part == "__init__":  # reaches the recognizer lazily
        return []
    found = []
    for line, other in imported_parts(ast.parse(text)):
        above = other in ONLY[part] if part in ONLY else ROW[other] < ROW[part]
        if other != part and not above:
            found.append(f"{path.relative_to(PACKAGE)}:{line}: {part} imports {other}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert part_of(path) in ROW or part_of(path) == "__init__", "give this part a row, here and in docs/architecture.md"
    assert offences(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "text", "offence"),
    [
        ("losses/x.py", "from w2vbert_asr.models.encoder import Encoder", "losses imports models"),
        ("text/x.py", "def f():\n    import w2vbert_asr.features.fbank", "text imports features"),
        ("models/x.py", "from w2vbert_asr import data", "models imports data"),
        ("search/x.py", "if 1:\n    from w2vbert_asr.training import trainer", "search imports training"),
    ],
)
def test_an_offence_is_found(file: str, text: str, offence: str) -> None:
    found = offences(PACKAGE / file, text)
    assert len(found) == 1 and found[0].endswith(offence)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert path.stem not in ("utils", "common", "misc", "helpers")
    assert not text or ast.get_docstring(ast.parse(text)), "a module begins with what it is"


def modules_after(statement: str) -> set[str]:
    """Names of the modules that are loaded after `statement` in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return set(done.stdout.split())


def test_the_package_starts_without_torch() -> None:
    assert "torch" not in modules_after("import w2vbert_asr.cli")


@pytest.mark.parametrize("verb", ["prepare", "validate", "fix", "score", "config"])
def test_verbs_without_a_model_start_without_torch(verb: str) -> None:
    assert "torch" not in modules_after(f"import w2vbert_asr.commands.{verb}")


def test_every_corpus_reader_does_without_torch() -> None:
    readers = [f"w2vbert_asr.corpora.{path.stem}" for path in (PACKAGE / "corpora").glob("*.py")]
    assert "torch" not in modules_after("\n".join(f"import {name.removesuffix('.__init__')}" for name in readers))
