"""A table without anything unusual, taken apart as a whole: several times as fast as line by line.

Unusual is whatever `tables` mends, passes over or refuses, or only might: then the answer is None, and it is asked.
Dimension letters: N lines, P bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vbert_asr.data.files import require_regular
from w2vbert_asr.data.lazy import Strings

_NEWLINE, _SPACE, _DELETE, _PIPE = b"\n \x7f|"
_BOM = b"\xef\xbb\xbf"
_WIDEST = 256  # bytes of an id, or of a value that is looked at as a whole
_DIGITS = b"0123456789"
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """N lines in strict byte order of their ids; a value may be empty, and begins and ends with no blank."""

    ids: Strings
    values: Strings

    def words(self) -> npt.NDArray[np.bytes_] | None:
        """(N,) the values, if each is one field of moderate length."""
        if len(self.values) != np.count_nonzero(np.diff(self.values.bounds)) or np.any(self.values.text == _SPACE):
            return None
        return _fixed(self.values)

    def paths(self) -> Strings | None:
        """The values, if each is one that a path can be."""
        starts, ends = self.values.bounds[:-1], self.values.bounds[1:]
        text = self.values.text
        if np.any(starts == ends) or np.any(text[starts] == _PIPE) or np.any(text[ends - 1] == _PIPE):
            return None
        return self.values

    def counts(self) -> npt.NDArray[np.int64] | None:
        """(N,) the values as positive whole numbers."""
        words = self._of(_DIGITS)
        if words is None or words.itemsize > 18:
            return None
        counts = words.astype(np.int64)
        return counts if np.all(counts > 0) else None

    def seconds(self) -> npt.NDArray[np.float64] | None:
        """(N,) the values as positive numbers, written without sign or exponent."""
        words = self._of(_DIGITS + b".")
        try:
            seconds = None if words is None else words.astype(np.float64)
        except ValueError:
            return None
        return seconds if seconds is not None and np.all(seconds > 0) and np.all(np.isfinite(seconds)) else None

    def _of(self, characters: bytes) -> npt.NDArray[np.bytes_] | None:
        """`words`, if they have no other characters."""
        allowed = np.zeros(256, dtype=bool)
        allowed[list(characters)] = True
        return self.words() if np.all(allowed[self.values.text]) else None


def read_lines(path: Path) -> Lines | None:
    """All lines of a table. Raises DataError for what is no regular file."""
    require_regular(path)
    data = np.fromfile(path, dtype=np.uint8)
    if not _is_plain(data):
        return None
    newlines = np.flatnonzero(data == _NEWLINE)
    starts = np.concatenate([[0], newlines[:-1] + 1])
    id_ends = _id_ends(data, starts)
    if id_ends is None or np.any(id_ends == starts):
        return None
    value_starts = np.minimum(id_ends + 1, newlines)
    if np.any(data[value_starts] == _SPACE) or np.any(data[newlines - 1] == _SPACE):
        return None  # blanks to be stripped
    bounds = np.concatenate([[0], np.cumsum(id_ends - starts)])
    in_ids = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], np.diff(bounds))
    ids = Strings(data[in_ids], bounds)
    order = _fixed(ids)
    if order is None or not np.all(order[1:] > order[:-1]):
        return None
    in_values = np.ones(len(data), dtype=bool)
    in_values[in_ids] = in_values[id_ends] = in_values[newlines] = False
    return Lines(ids=ids, values=Strings(data[in_values], np.concatenate([[0], np.cumsum(newlines - value_starts)])))


def named(words: npt.NDArray[np.bytes_]) -> tuple[Strings, npt.NDArray[np.int32]]:
    """(N,) of which neighbours are often equal -> the different ones in byte order, and (N,) places among them."""
    begins = np.flatnonzero(np.append(True, words[1:] != words[:-1]))
    names, places = np.unique(words[begins], return_inverse=True)
    lengths = np.diff(np.append(begins, len(words)))
    return Strings.pack([name.decode() for name in names.tolist()]), np.repeat(places, lengths).astype(np.int32)


def _is_plain(data: Bytes) -> bool:
    """Lines of UTF-8 without control characters, each with its end."""
    if not len(data) or data[-1] != _NEWLINE or data[:3].tobytes() == _BOM:
        return False
    if np.any((data < _SPACE) & (data != _NEWLINE)) or np.any(data == _DELETE):
        return False
    if np.any(data >= 0x80):
        try:
            data.tobytes().decode()
        except UnicodeDecodeError:
            return False
    return True


def _id_ends(data: Bytes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """(N,) where the first field of each line ends; None if one is too wide."""
    ends, open_lines = starts.copy(), np.arange(len(starts))
    for width in range(_WIDEST):
        at = starts[open_lines] + width
        is_end = data[at] <= _SPACE
        ends[open_lines[is_end]] = at[is_end]
        open_lines = open_lines[~is_end]
        if not len(open_lines):
            return ends
    return None


def _fixed(strings: Strings) -> npt.NDArray[Any] | None:
    """(N,) of numpy's fixed-width bytes, which compare in byte order; None if one is too wide."""
    lengths = np.diff(strings.bounds)
    width = int(lengths.max(initial=1))
    if width > _WIDEST:
        return None
    table = np.zeros((len(lengths), width), dtype=np.uint8)
    table[np.arange(width) < lengths[:, None]] = strings.text
    return table.view(f"S{width}")[:, 0]
