"""The index of a data directory: its tables as arrays in byte order of utt_id, in one memory-mapped file beside them.

It is made once, through `kaldi_dir.read` with all its checks, and made again when a byte of a table has changed.
Dimension letters: N utterances, S speakers, R recordings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from w2vbert_asr.data import kaldi_dir
from w2vbert_asr.data.columns import Column, Table, read_columns
from w2vbert_asr.data.files import require_regular, sha256
from w2vbert_asr.data.kaldi_dir import INDEX, PARSERS, REQUIRED, TOKEN_COUNTS
from w2vbert_asr.data.lazy import Strings
from w2vbert_asr.data.mapped import Array, cached
from w2vbert_asr.errors import DataError
from w2vbert_asr.text.tokenizer import Tokenizer

FORMAT = 1  # raise it when the same tables would give other arrays
_TEXTS_AT_ONCE = 10_000
_LARGE, _MANY = 50_000_000, 100_000  # bytes of tables, transcripts: from there on it takes long enough for a message
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Index:
    """The utterances of a data directory. None: there is no such table; without segments starts and ends are None."""

    folder: Path
    utt_ids: Strings  # (N,)
    speakers: npt.NDArray[np.int32]  # (N,) places in speaker_names
    speaker_names: Strings  # (S,) in byte order
    durations: npt.NDArray[np.float64]  # (N,) seconds
    num_frames: npt.NDArray[np.int64] | None  # (N,)
    num_samples: npt.NDArray[np.int64] | None  # (N,) at the rate of the file
    texts: Strings | None  # (N,)
    feats: Strings | None  # (N,) "file.ark:123"
    recordings: npt.NDArray[np.int32]  # (N,) places in audio
    audio: Strings  # (R,) as in wav.scp
    starts: npt.NDArray[np.float64] | None  # (N,) seconds
    ends: npt.NDArray[np.float64] | None  # (N,) seconds
    digests: Mapping[str, str]  # SHA-256 of each of these columns, by its name

    def __len__(self) -> int:
        return len(self.speakers)

    def audio_path(self, number: int) -> Path:
        """The audio file of utterance `number`."""
        return self.folder / self.audio[int(self.recordings[number])]


def open_index(folder: Path) -> Index:
    """The index of a data directory, from its file or made anew. DataError as `kaldi_dir.read` raises it.

    Opening reads the tables and the index once, for their checksums: a second or two for a million utterances.
    """
    try:
        key = _tables_digest(folder)
    except DataError:
        kaldi_dir.read(folder)  # says it together with everything else that is wrong
        raise
    arrays = cached(folder / INDEX, key, lambda: _make(folder, key))
    texts = {name: Strings(arrays[f"{name}.text"], arrays[f"{name}.bounds"]) for name in _named(arrays, "text")}
    return Index(
        folder=folder,
        utt_ids=texts["utt_ids"],
        speakers=arrays["speakers"],
        speaker_names=texts["speaker_names"],
        durations=arrays["durations"],
        num_frames=arrays.get("num_frames"),
        num_samples=arrays.get("num_samples"),
        texts=texts.get("texts"),
        feats=texts.get("feats"),
        recordings=arrays["recordings"],
        audio=texts["audio"],
        starts=arrays.get("starts"),
        ends=arrays.get("ends"),
        digests={name: arrays[f"{name}.sha256"].tobytes().hex() for name in _named(arrays, "sha256")},
    )


def token_counts(index: Index, tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """(N,) word pieces of each transcript of an index that has texts.

    Counted once for a word-piece model, 20 s on one core for a million, and kept in a file beside the tables.
    """
    texts = index.texts
    assert texts is not None

    def make() -> dict[str, Array]:
        if len(texts) > _MANY:
            _log.info("%s: counting the word pieces of %d utterances, once", index.folder, len(texts))
        starts = range(0, len(texts), _TEXTS_AT_ONCE)
        counts = (tokenizer.count(texts.between(start, min(start + _TEXTS_AT_ONCE, len(texts)))) for start in starts)
        return {"counts": np.fromiter((one for some in counts for one in some), np.int32, len(texts))}

    return cached(index.folder / TOKEN_COUNTS, f"{index.digests['texts']} {tokenizer.digest}", make)["counts"]


def _tables_digest(folder: Path) -> str:
    """SHA-256 over every byte of the tables: what an index was made from. DataError for what is no regular file."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such data directory")
    paths = _tables(folder)
    with ThreadPoolExecutor(4) as threads:
        digests = list(threads.map(sha256, paths))
    named = [[path.name, digest] for path, digest in zip(paths, digests, strict=True)]
    return hashlib.sha256(json.dumps([FORMAT, named]).encode()).hexdigest()


def _tables(folder: Path) -> list[Path]:
    """The tables that are there. DataError for what is no regular file."""
    paths = [folder / name for name in PARSERS if (folder / name).exists() or (folder / name).is_symlink()]
    for path in paths:
        require_regular(path)
    return paths


def _make(folder: Path, key: str) -> dict[str, Array]:
    """The arrays of an index. DataError as `kaldi_dir.read` raises."""
    paths = _tables(folder)
    size = sum(path.stat().st_size for path in paths)
    if size > _LARGE:
        _log.info("%s: making the index of %d MB of tables, once", folder, size / 1e6)
    with ThreadPoolExecutor(2) as threads:
        tables = {table.name: table for table in threads.map(read_columns, paths) if table}
    arrays = _join(tables) if len(tables) == len(paths) else None
    if arrays is None:
        kaldi_dir.read(folder)  # says what is wrong
    if arrays is None or _tables_digest(folder) != key:
        raise DataError(f"{folder}: its tables changed while they were read; run the same again")
    return arrays


def _join(tables: Mapping[str, Table]) -> dict[str, Array] | None:
    """The columns of `Index`, one of strings as `name.text` and `name.bounds`, and `name.sha256` of each.

    None where a table is missing or has other ids than the rest.
    """
    if not tables.keys() >= set(REQUIRED):
        return None
    ids, recorded, cut = tables["utt2spk"].ids, tables["wav.scp"].ids, "segments" in tables
    if not all(table.ids.equals(ids) for name, table in tables.items() if name != "wav.scp" or not cut):
        return None
    columns: dict[str, Column] = {"utt_ids": ids, "recordings": np.arange(len(ids), dtype=np.int32)}
    for table in tables.values():
        columns |= table.columns
    if cut:
        known = {rec_id: place for place, rec_id in enumerate(recorded.between(0, len(recorded)))}
        used = cast(Strings, columns.pop("recording_names"))
        places = [known.get(rec_id, -1) for rec_id in used.between(0, len(used))]
        if -1 in places:
            return None
        columns["recordings"] = np.asarray(places, dtype=np.int32)[cast(Array, columns["recordings"])]
    arrays: dict[str, Array] = {}
    for name, column in columns.items():
        parts = _parts(name, column)
        arrays |= {**parts, f"{name}.sha256": _sha256(*parts.values())}
    return arrays


def _parts(name: str, column: Column) -> dict[str, Array]:
    if isinstance(column, Strings):
        return {f"{name}.text": column.text, f"{name}.bounds": column.bounds}
    return {name: column}


def _sha256(*arrays: Array) -> Array:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _named(arrays: Iterable[str], kind: str) -> list[str]:
    return [name.removesuffix(f".{kind}") for name in arrays if name.endswith(f".{kind}")]
