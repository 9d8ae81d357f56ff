from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2vbert_asr.data import tables
from w2vbert_asr.data.tables import Problem, Segment, fits, line_numbers, read_table, write_table
from w2vbert_asr.errors import DataError


def read(
    path: Path, parse: Callable[[str], Any] = tables.parse_text, encoding: str = "utf-8"
) -> tuple[dict[str, Any], list[Problem]]:
    problems: list[Problem] = []
    return read_table(path, parse, problems, encoding), problems


def test_whatever_fits_on_a_line_comes_back(tmp_path: Path) -> None:
    rng = random.Random(0)
    alphabet = "aZ09-_.é\u00a0\u2028\x85中😀'\"$(`|\\ \t\r\n\x00\x1f"
    records: dict[str, str] = {}
    refused = 0
    for _ in range(3000):
        key, value = ("".join(rng.choices(alphabet, k=rng.randrange(6))) for _ in range(2))
        if fits(key, value):
            records[key] = value
        else:
            refused += 1
            with pytest.raises(DataError, match="does not fit"):
                write_table(tmp_path / "refused", {key: value})
    write_table(tmp_path / "table", records)
    assert read(tmp_path / "table") == (records, [])
    assert len(records) > 300 and refused > 300
    keys = [line.split(b" ")[0] for line in (tmp_path / "table").read_bytes().split(b"\n")[:-1]]
    assert keys == sorted(keys)  # byte order


def test_blanks_and_tabs(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a\tx  y\n  b \t z\t\nc\nd \n")
    assert read(tmp_path / "t") == ({"a": "x  y", "b": "z", "c": "", "d": ""}, [])


def test_line_numbers_are_those_of_the_first_place(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a 1\n\n\tb 2\nc\nb 3\n")
    assert line_numbers(tmp_path / "t", ["c", "b", "x"]) == {"b": 3, "c": 4}
    assert line_numbers(tmp_path / "missing", []) == {}


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a 1\nb x\nc -1\n\na 2\nb 3\nd nan\ne 1_0\n")
    records, problems = read(tmp_path / "t", tables.parse_seconds)
    assert records == {"a": 1.0}
    found = [(p.kind, p.severity, p.line, p.key) for p in problems]
    assert found == [
        ("malformed", "error", 2, "b"),
        ("malformed", "error", 3, "c"),
        ("blank_line", "note", 4, ""),
        ("malformed", "error", 7, "d"),
        ("malformed", "error", 8, "e"),
        ("duplicate", "error", 5, "a"),
        ("duplicate", "error", 6, "b"),
    ]
    assert "first on line 1" in problems[5].message and "first on line 2" in problems[6].message


GOOD: list[tuple[Callable[[str], Any], str, Any]] = [
    (tables.parse_path, "/a b/c.wav", "/a b/c.wav"),
    (tables.parse_word, "spk", "spk"),
    (tables.parse_seconds, "1e-3", 0.001),
    (tables.parse_count, "007", 7),
    (tables.parse_segment, "rec 0.25\t3", Segment("rec", 0.25, 3.0)),
]
BAD = [
    (tables.parse_path, ["", "cat x |", "| cat", "a\x07b"]),
    (tables.parse_word, ["", "a b", "a\tb"]),
    (tables.parse_seconds, ["", "0", "-1", "nan", "inf", "1 2", "x", "1_000"]),
    (tables.parse_count, ["", "0", "-1", "1.0", "nan", "1 2", "٣", "9" * 30]),
    (tables.parse_segment, ["", "r 1", "r 0 1 2", "r -1 2", "r 2 2", "r 3 2", "r nan 2", "r 0 inf", "r a b"]),
]


def test_values() -> None:
    for parse, value, expected in GOOD:
        assert parse(value) == expected
    for parse, values in BAD:
        for value in values:
            with pytest.raises(ValueError, match=r"expected|control|pipes|start|end"):
                parse(value)


def test_other_encodings(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16", "utf-8"):
        (tmp_path / "t").write_bytes("a é\nb ü\n".encode(encoding))
        assert read(tmp_path / "t", encoding=encoding) == ({"a": "é", "b": "ü"}, [])
    (tmp_path / "t").write_bytes("a é\n".encode("utf-16")[:-1])
    assert [p.kind for p in read(tmp_path / "t", encoding="utf-16")[1]] == ["encoding"]
