"""Texts to learn a vocabulary or a language model from: transcripts of Kaldi tables, and plain lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from w2vbert_asr.data.files import require_regular
from w2vbert_asr.data.tables import Problem, parse_text, read_table
from w2vbert_asr.errors import DataError, summarize


def read_transcripts(*groups: Sequence[Path]) -> list[list[str]]:
    """The transcripts of each group of Kaldi text files, each file in byte order of utt_id.

    DataError with all defects.
    """
    texts: list[list[str]] = []
    problems: list[str] = []
    for paths in groups:
        texts.append([])
        for path in paths:
            found: list[Problem] = []
            records = read_table(path, parse_text, found)
            problems.extend(str(path.parent / str(problem)) for problem in found if problem.severity == "error")
            texts[-1].extend(records[utt_id] for utt_id in sorted(records))
    if problems:
        raise DataError(f"{len(problems)} problem(s):\n{summarize(problems)}")
    return texts


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
