"""Who may import whom: the rows of docs/architecture.md, read from the syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "w2vbert_asr"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENT = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A row of the table: which number it has, and what of the rows above it may import (empty: everything)."""

    row: int
    only: frozenset[str]


def read_rows(document: str) -> dict[str, Part]:
    parts = {}
    for number, names, only in re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]*)\|$", document, re.MULTILINE):
        part = Part(row=int(number), only=frozenset(re.findall(r"`(\w+)`", only)))
        parts.update(dict.fromkeys(re.findall(r"`(\w+)`", names), part))
    return parts


PARTS = read_rows(DOCUMENT)


def may_import(part: str, other: str) -> bool:
    above = PARTS[other].row < PARTS[part].row
    return part == other or (above and (PARTS[other].row < 2 or not PARTS[part].only or other in PARTS[part].only))


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
        if not may_import(part, other):
            found.append(f"{path.relative_to(PACKAGE)}:{line}: {part} imports {other}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert part_of(path) in PARTS or part_of(path) == "__init__", "give this part a row in docs/architecture.md"
    assert offences(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "text", "offence"),
    [
        ("losses/x.py", "from w2vbert_asr.models.encoder import Encoder", "losses imports models"),
        ("text/x.py", "def f():\n    import w2vbert_asr.features.fbank", "text imports features"),
        ("models/x.py", "from w2vbert_asr import data", "models imports data"),
        ("models/x.py", "from w2vbert_asr.text import tokenizer", "models imports text"),
        ("errors.py", "import w2vbert_asr.config", "errors imports config"),
        ("search/x.py", "if 1:\n    from w2vbert_asr.training import trainer", "search imports training"),
    ],
)
def test_an_offence_is_found(file: str, text: str, offence: str) -> None:
    found = offences(PACKAGE / file, text)
    assert len(found) == 1 and found[0].endswith(offence)


def test_the_document_names_every_module() -> None:
    """The tree of docs/architecture.md has each part, and each module in the lines of its package."""
    tree = DOCUMENT.partition("## Tree")[2].partition("    recipes/")[0]
    listed: dict[str, str] = {}
    for line in tree.splitlines():
        name = re.match(r" {6}(\w+)/? ", line)
        if name:
            listed[name[1]] = ""
        if listed:
            listed[list(listed)[-1]] += f" {line[24:]}"
    for part, words in listed.items():
        modules = {path.stem for path in MODULES if path.parent == PACKAGE / part} - {"__init__"}
        modules |= {path.parent.name for path in MODULES if path.parent.parent == PACKAGE / part}
        assert sorted(modules - set(re.findall(r"\w+", words))) == [], f"{part}/: not in docs/architecture.md"
    parts = {part_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert sorted(listed) == sorted(parts)


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


@pytest.mark.parametrize("verb", ["prepare", "validate", "fix", "shard", "score", "calibrate", "config"])
def test_verbs_without_a_model_start_without_torch(verb: str) -> None:
    assert "torch" not in modules_after(f"import w2vbert_asr.commands.{verb}")


def test_every_corpus_reader_does_without_torch() -> None:
    readers = [f"w2vbert_asr.corpora.{path.stem}" for path in (PACKAGE / "corpora").glob("*.py")]
    assert "torch" not in modules_after("\n".join(f"import {name.removesuffix('.__init__')}" for name in readers))
