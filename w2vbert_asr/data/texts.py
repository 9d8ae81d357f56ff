"""Texts to learn a vocabulary or a language model from: transcripts of Kaldi tables, and plain lines."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from w2vbert_asr.data.files import require_regular
from w2vbert_asr.data.tables import Problem, parse_text, parse_word, read_table
from w2vbert_asr.errors import DataError, summarize

_log = logging.getLogger(__name__)


def read_transcripts(*groups: Sequence[Path], held_out: Sequence[Path] = ()) -> list[list[str]]:
    """The transcripts of each group of Kaldi text files, each file in byte order of utt_id.

    Of the first group those of the speakers and utterances of the data directories `held_out` are left out; as Kaldi
    wants it, an utt_id begins with its speaker and "-". DataError with all defects.
    """
    problems: list[str] = []

    def read(path: Path, parse: Callable[[str], str]) -> dict[str, str]:
        found: list[Problem] = []
        records = read_table(path, parse, found)
        problems.extend(str(path.parent / str(problem)) for problem in found if problem.severity == "error")
        return records

    not_wanted: set[str] = set()
    for folder in held_out:
        for utt_id, speaker in read(folder / "utt2spk", parse_word).items():
            not_wanted |= {utt_id, speaker}
    tables = [[read(path, parse_text) for path in paths] for paths in groups]
    if problems:
        raise DataError(f"{len(problems)} problem(s):\n{summarize(problems)}")
    if held_out and tables:
        whole = sum(map(len, tables[0]))
        tables[0] = [
            {utt_id: text for utt_id, text in records.items() if not_wanted.isdisjoint(_heads(utt_id))}
            for records in tables[0]
        ]
        left_out = whole - sum(map(len, tables[0]))
        _log.info("%d of %d transcripts are of held-out speakers and left out", left_out, whole)
    return [[records[utt_id] for records in own for utt_id in sorted(records)] for own in tables]


def _heads(utt_id: str) -> Iterator[str]:
    """An utt_id, and what comes before each of its "-": one of these is its speaker."""
    yield utt_id
    for at, letter in enumerate(utt_id):
        if letter == "-":
            yield utt_id[:at]


def read_lines(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of plain text files, UTF-8, one sentence each; a name that ends in .gz is decompressed."""
    for path in paths:
        require_regular(path)
        number = 0  # of lines read
        try:
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as handle:
                for line in handle:
                    number += 1
                    yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: line {number}: not UTF-8 ({error.reason}); save it as UTF-8") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: damaged behind line {number} ({error}); fetch it again") from error
