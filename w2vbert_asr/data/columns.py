"""One table of a data directory as columns, in byte order of its ids; read with all its checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vbert_asr.data import bulk
from w2vbert_asr.data.kaldi_dir import PARSERS
from w2vbert_asr.data.lazy import Strings
from w2vbert_asr.data.tables import Problem, parse_count, parse_path, parse_seconds, read_table
from w2vbert_asr.errors import DataError

Column = Strings | npt.NDArray[Any]
NAMES = {  # table -> what its column is called; utt2spk and segments have more than one
    "wav.scp": "audio",
    "utt2dur": "durations",
    "text": "texts",
    "feats.scp": "feats",
    "utt2num_frames": "num_frames",
    "utt2num_samples": "num_samples",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """N lines of the file `name`, by their ids, as columns of N. Of few names that occur often there are the names, in
    byte order, and each line's place among them: speaker_names and speakers, recording_names and recordings.
    """

    name: str
    ids: Strings
    columns: dict[str, Column]


def read_columns(path: Path) -> Table | None:
    """A table of a data directory; None for one with a mistake in it, or without a line."""
    try:
        return _clean(path) or _any(path)
    except DataError:
        return None


def _clean(path: Path) -> Table | None:
    """A table in which nothing is unusual, at once; None for any other, and for `segments`."""
    lines, name = bulk.read_lines(path), path.name
    if lines is None or name == "segments":
        return None
    if name == "utt2spk":
        words = lines.words()
        if words is None:
            return None
        names, places = bulk.named(words)
        return Table(name=name, ids=lines.ids, columns={"speaker_names": names, "speakers": places})
    column: Column | None
    if PARSERS[name] is parse_count:
        column = lines.counts()
    elif PARSERS[name] is parse_seconds:
        column = lines.seconds()
    else:
        column = lines.paths() if PARSERS[name] is parse_path else lines.values
    return None if column is None else Table(name=name, ids=lines.ids, columns={NAMES[name]: column})


def _any(path: Path) -> Table | None:
    """Any table, line by line."""
    problems: list[Problem] = []
    records = read_table(path, PARSERS[path.name], problems)
    if not records or any(problem.severity == "error" for problem in problems):
        return None
    ids = sorted(records)
    values = [records[one] for one in ids]
    records.clear()
    return Table(name=path.name, ids=Strings.pack(ids), columns=_columns(path.name, values))


def _columns(table: str, values: Sequence[Any]) -> dict[str, Column]:
    if table == "utt2spk":
        return _named("speaker", values)
    if table == "segments":
        times = {
            f"{at}s": np.asarray([getattr(one, at) for one in values], dtype=np.float64) for at in ("start", "end")
        }
        return {**_named("recording", [one.rec_id for one in values]), **times}
    return {NAMES[table]: Strings.pack(values) if isinstance(values[0], str) else np.asarray(values)}


def _named(what: str, values: Sequence[str]) -> dict[str, Column]:
    names = sorted(set(values))
    at = {name: place for place, name in enumerate(names)}
    places = np.fromiter(map(at.__getitem__, values), np.int32, len(values))
    return {f"{what}_names": Strings.pack(names), f"{what}s": places}
