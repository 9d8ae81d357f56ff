"""One Kaldi table: a text file of `id value` lines, read strictly, with every mistake named by its line.

Lines end in \n or \r\n, fields are separated by blanks or tabs, and the order of the lines does not matter. Written
tables are in byte order (the order of LC_ALL=C), which is the order of Python's strings for UTF-8 text.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from w2vbert_asr.data.files import require_regular
from w2vbert_asr.errors import DataError

V = TypeVar("V")
_BLANKS = re.compile(r"[ \t]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNFIT_KEY, _UNFIT_VALUE = re.compile(r"[\x00-\x20\x7f]"), re.compile(r"^[ \t]|[ \t]$|[\x00-\x1f\x7f]")
_BOM, _UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect. A note says how a file was read, a warning is an error under --strict."""

    kind: str
    severity: Literal["error", "warning", "note"]
    file: str
    line: int | None
    message: str
    key: str = ""  # the id whose line was rejected

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A piece of a recording, in seconds."""

    rec_id: str
    start: float
    end: float


def read_table(path: Path, parse: Callable[[str], V], problems: list[Problem], encoding: str = "utf-8") -> dict[str, V]:
    """id -> parsed value; defects are appended to `problems`, with the id where a line was rejected.

    `parse` raises ValueError with a message for a value that is wrong. Of a repeated id the first line is kept.
    """
    records: dict[str, V] = {}
    rejected: set[str] = set()
    repeated: dict[str, list[int]] = {}
    for number, line in _read_lines(path, problems, encoding):
        key, _, value = line.partition(" ")
        if not key or "\t" in key:  # blanks before the id, or a tab behind it
            key, *rest = _BLANKS.split(line.strip(" \t"), maxsplit=1)
            value = rest[0] if rest else ""
        if not key:
            problems.append(Problem("blank_line", "note", path.name, number, "blank line, passed over"))
        elif key in records or key in rejected:
            repeated.setdefault(key, []).append(number)
        else:
            try:
                records[sys.intern(key)] = parse(value.strip(" \t"))
                if not key.isprintable():
                    _require_visible(key)
            except ValueError as error:
                problems.append(Problem("malformed", "error", path.name, number, f"{key}: {error}", key))
                records.pop(key, None)
                rejected.add(key)
    for key, first in line_numbers(path, repeated, encoding).items():
        for number in repeated[key]:
            message = f"duplicate id {key}, first on line {first}; keep one of them"
            problems.append(Problem("duplicate", "error", path.name, number, message, key))
    return records


def line_numbers(path: Path, keys: Iterable[str], encoding: str = "utf-8") -> dict[str, int]:
    """id -> the first line that it stands on. A second pass over the file, so that only defects pay for it."""
    wanted, found = set(keys), dict[str, int]()
    for number, line in _read_lines(path, [], encoding) if wanted else ():
        key = _BLANKS.split(line.strip(" \t"), maxsplit=1)[0]
        if key in wanted:
            found.setdefault(key, number)
    return found


def fits(key: str, value: str) -> bool:
    """Whether a line can hold the two: no blank in the id, none around the value, no control character, valid UTF-8."""
    try:
        (key + value).encode()
    except UnicodeEncodeError:
        return False
    return bool(key) and not _UNFIT_KEY.search(key) and not _UNFIT_VALUE.search(value)


def write_table(path: Path, records: Mapping[str, str]) -> None:
    """Write `id value` lines in byte order. DataError for what a line cannot hold."""
    for key, value in records.items():
        if not fits(key, value):
            raise DataError(f"{path}: {key!r} {value!r} does not fit on a line (blanks, control characters); rename it")
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(f"{key} {records[key]}".rstrip(" ") + "\n" for key in sorted(records))


# --- values: each raises ValueError with what was expected ------------------------------------------------------------


def parse_path(value: str) -> str:
    """A path; never a pipe, which would be a program to run."""
    if not value:
        raise ValueError("expected an id and a path, found the id alone")
    _require_visible(value)
    if value.endswith("|") or value.startswith("|"):
        raise ValueError(f"pipes are refused ({value[:60]!r}); write the audio to a file and give its path")
    return value


def parse_text(value: str) -> str:
    """A transcript, possibly empty."""
    return value


def parse_word(value: str) -> str:
    """Exactly one field behind the id."""
    if not value or " " in value or "\t" in value:
        raise ValueError(f"expected 2 fields, found {len(value.split()) + 1}")
    return sys.intern(value)


def parse_seconds(value: str) -> float:
    """A positive finite number."""
    number = _number(value, "seconds")
    if number <= 0:
        raise ValueError(f"expected more than 0 seconds, found {value}")
    return number


def parse_count(value: str) -> int:
    """A positive whole number."""
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0
    if number == 0:
        raise ValueError(f"expected a positive whole number, found {value[:60]!r}")
    return number


def parse_segment(value: str) -> Segment:
    """`recording start end`, in seconds, 0 <= start < end."""
    fields = _BLANKS.split(value)
    if len(fields) != 3:
        raise ValueError(f"expected 4 fields (utterance, recording, start, end), found {len(fields) + bool(value)}")
    start, end = _number(fields[1], "start"), _number(fields[2], "end")
    if start < 0:
        raise ValueError(f"start {fields[1]} is before the recording")
    if end <= start:
        raise ValueError(f"end {fields[2]} is not after start {fields[1]}")
    return Segment(sys.intern(fields[0]), start, end)


def _require_visible(text: str) -> None:
    found = _CONTROL.search(text)
    if found:
        raise ValueError(f"control character {found[0]!r}; rename it")


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:
        raise ValueError(f"{name}: expected a finite number, found {text[:60]!r}")
    return number


# --- bytes -> lines ---------------------------------------------------------------------------------------------------


def _read_lines(path: Path, problems: list[Problem], encoding: str) -> Iterator[tuple[int, str]]:
    """(number, line without its end) of a file, lines that are not text left out; how it was read goes to `problems`.

    One line at a time: a table of a million lines is held once, as what was parsed of it.
    """

    def report(kind: str, severity: Literal["error", "note"], line: int | None, message: str) -> None:
        problems.append(Problem(kind, severity, path.name, line, message))

    require_regular(path)
    number, crlf, ended = 0, False, True
    with open(path, "rb") as raw:
        head = raw.read(3)
        if encoding == "utf-8" and head.startswith(_UTF16):
            message = f"byte 1 is {head[0]:#04x}: UTF-16, not UTF-8; `w2vbert fix --encoding utf-16` converts it"
            return report("encoding", "error", 1, message)
        if encoding == "utf-8" and head == _BOM:
            report("bom", "note", None, "begins with a byte order mark, passed over")
        else:
            raw.seek(0)
        text = io.TextIOWrapper(raw, encoding, errors="surrogateescape", newline="\n")
        try:
            for number, line in enumerate(text, 1):
                ended = line.endswith("\n")
                if line.endswith("\r\n") or (not ended and line.endswith("\r")):
                    crlf = True
                line = line.rstrip("\r\n")
                fault = None if line.isascii() else _undecoded(line, encoding)
                if fault is None:
                    yield number, line
                else:
                    report("encoding", "error", number, fault)
        except UnicodeDecodeError as error:  # of encodings with more than one byte a character
            report("encoding", "error", number + 1, f"not {encoding.upper()} ({error.reason}); give another --encoding")
    if not ended:
        report("no_final_newline", "note", number, "no line end at the end of the file")
    if crlf:
        report("crlf", "note", None, "has Windows line ends (CRLF), read as line ends")


def _undecoded(line: str, encoding: str) -> str | None:
    """What to say of a line with a byte that is not text, which surrogateescape has kept as a lone surrogate."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = len(line[: error.start].encode(encoding)) + 1
        return (
            f"byte {byte} of the line ({ord(line[error.start]) - 0xDC00:#04x}) is not {encoding.upper()}; save "
            "the file as UTF-8, or `w2vbert fix --encoding latin-1` (or what it is) converts it"
        )
    return None
