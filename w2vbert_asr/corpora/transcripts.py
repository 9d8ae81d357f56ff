"""Tables of transcripts that people have: TSV, CSV, |-separated or JSONL, with or without a header line.

Columns and keys go by the names below. Without a header the first column is the file or its id and the last one the
text, as in LJSpeech's metadata.csv. A row is a whole file. No torch.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.data.files import require_regular
from w2vbert_asr.errors import DataError, summarize

AUDIO = ("audio_filepath", "audio_path", "audio", "path", "file", "file_name", "filename", "wav", "utt_id", "id")
TEXT = ("normalized_text", "normalized_transcription", "text", "sentence", "transcript", "transcription")
SPEAKER = ("speaker", "speaker_id", "spk", "client_id")
_DELIMITERS = "\t|;,"
_QUOTED = ";,"  # only these tables quote what holds the delimiter; in the others a quote is a character


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; text may be empty."""

    line: int
    audio: str  # path, file name or id, as written
    text: str
    speaker: str | None


def read_rows(path: Path, encoding: str = "utf-8") -> list[Row]:
    """Every row. DataError lists every malformed one with its line, or every line that is not `encoding`."""
    lines = _decode(path, encoding)
    problems: list[str] = []
    first = next((line for line in lines if line.strip()), "")
    is_json = path.suffix.lower() in (".jsonl", ".json") or first.lstrip().startswith("{")
    rows = list(_read_json(lines, problems) if is_json else _read_columns(lines, problems))
    if problems:
        raise DataError(f"{path}: {len(problems)} malformed line(s); mend them:\n{summarize(problems)}")
    if not rows:
        raise DataError(f"{path}: has no rows; expected one for each audio file")
    return rows


def _decode(path: Path, encoding: str) -> list[str]:
    require_regular(path)
    data = path.read_bytes()
    remedy = "save it as UTF-8, or name its encoding, as in --set folder.encoding=latin-1"
    if encoding == "utf-8" and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}:1: byte 1 is {data[0]:#04x}: UTF-16, not UTF-8; {remedy}")
    try:
        return data.decode(encoding).removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError:
        problems = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode(encoding)
        except UnicodeDecodeError as error:
            problems.append(
                f"line {number}, byte {error.start + 1}: {line[error.start]:#04x} is not {encoding.upper()}"
            )
    raise DataError(f"{path}: {len(problems)} line(s) are not {encoding.upper()}; {remedy}\n{summarize(problems)}")


# --- JSONL ------------------------------------------------------------------------------------------------------------


def _read_json(lines: list[str], problems: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: not JSON ({error})")
            continue
        if not isinstance(record, dict):
            problems.append(f"line {number}: expected an object {{...}} on each line, found {line.strip()[:40]}")
            continue
        cells = {str(key).lower(): value for key, value in record.items()}
        audio, text, speaker = (_first(cells, names) for names in (AUDIO, TEXT, SPEAKER))
        wrong = len(problems)
        if not isinstance(audio, str) or not audio.strip():
            problems.append(f"line {number}: no file name under any of {', '.join(AUDIO)}")
        if not isinstance(text, str):
            problems.append(f"line {number}: no text under any of {', '.join(TEXT)}")
        if not isinstance(speaker, str | int | None):
            problems.append(f"line {number}: expected a name as speaker, found {speaker!r:.40}")
        if len(problems) == wrong:
            yield Row(number, str(audio).strip(), str(text), None if speaker is None else str(speaker).strip() or None)


def _first(cells: dict[str, object], names: tuple[str, ...]) -> object:
    return next((cells[name] for name in names if cells.get(name) is not None), None)


# --- columns ----------------------------------------------------------------------------------------------------------


def _read_columns(lines: list[str], problems: list[str]) -> Iterator[Row]:
    filled = [line for line in lines if line.strip()]
    # A delimiter stands on every line; a comma may do so by chance, so it comes last.
    delimiter = next((mark for mark in _DELIMITERS if all(mark in line for line in filled[:50])), None)
    delimiter = delimiter or next((mark for mark in _DELIMITERS if filled and mark in filled[0]), None)
    if delimiter is None:
        problems.extend(["line 1: no tab, |, ; or , between a file name and its text"] if filled else [])
        return
    table = _split(lines, delimiter, problems)
    _, head = next(table, (0, [""]))
    names = [cell.strip().lower() for cell in head]
    where = {kind: next((names.index(name) for name in kind if name in names), None) for kind in (AUDIO, TEXT, SPEAKER)}
    audio, text, speaker = where[AUDIO], where[TEXT], where[SPEAKER]
    if audio is None or text is None:  # no header
        audio, text, speaker = 0, len(head) - 1, None
        table = _split(lines, delimiter, problems)
    for number, cells in table:
        if len(cells) != len(head):
            hint = "; quote what holds the delimiter" if delimiter in _QUOTED else ""
            problems.append(f"line {number}: expected {len(head)} fields, found {len(cells)}{hint}")
        elif not cells[audio].strip():
            problems.append(f"line {number}: no file name")
        else:
            name = cells[speaker].strip() if speaker is not None else ""
            yield Row(number, cells[audio].strip(), cells[text], name or None)


def _split(lines: list[str], delimiter: str, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each record."""
    if delimiter not in _QUOTED:
        yield from ((i, line.rstrip("\r").split(delimiter)) for i, line in enumerate(lines, 1) if line.strip())
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, skipinitialspace=True, strict=True)
    number = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        problems.append(f"line {number}: {error}; check its quotes (nothing below was read)")
