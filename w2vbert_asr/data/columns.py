"""One table of a data directory as columns, in byte order of its ids; read with all its checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2vbert_asr.data.kaldi_dir import PARSERS
from w2vbert_asr.data.lazy import Strings
from w2vbert_asr.data.tables import Problem, read_table
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
    problems: list[Problem] = []
    try:
        records = read_table(path, PARSERS[path.name], problems)
    except DataError:
        return None
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
