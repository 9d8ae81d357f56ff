"""Features of utterances by number: read from Kaldi archives, or computed from their audio.

Dimension letters: N utterances, T frames (10 ms), F mel bins.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2vbert_asr.data.archive import read_feats
from w2vbert_asr.data.audio import AudioError
from w2vbert_asr.data.batching import ORDER
from w2vbert_asr.data.index import Index, open_index
from w2vbert_asr.data.lazy import Lazy
from w2vbert_asr.data.online import online_feats, speed_prefix
from w2vbert_asr.errors import ConfigError, DataError, summarize
from w2vbert_asr.features.fbank import FbankConfig


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The utterances of a data directory at one speed."""

    index: Index
    speed: float

    @property
    def prefix(self) -> str:
        return speed_prefix(self.speed)


class FeatureReader:
    """The utterances of several data directories, in byte order of utt_id, and their features.

    online: from audio, once for each speed factor (ids and speakers then begin with `sp0.9-`), else from `feats.scp`.
    What is known of utterances stays in the memory-mapped indexes of the directories; held here are, of each, its
    place there, its frames and its speaker: 16 bytes.
    """

    def __init__(self, folders: Sequence[Path], *, online: bool, speeds: Sequence[float] = (1.0,)) -> None:
        if not folders:
            raise ConfigError("name at least one data directory")
        self.online = online
        self._runs = [
            _Run(index=index, speed=speed)
            for index in map(open_index, folders)
            for speed in (speeds if online else (1.0,))
        ]
        self._ends = np.cumsum([len(run.index) for run in self._runs]).tolist()
        self._order = _order(self._runs)
        num_frames = [self._count(run) for run in self._runs]
        self.num_frames: npt.NDArray[np.int64] = np.concatenate(num_frames)[self._order]
        self.speakers = _speakers(self._runs)[self._order]  # (N,) numbers, in byte order of the speakers' names
        self.utt_ids: Sequence[str] = Lazy(len(self._order), self._utt_id)
        self.texts: Sequence[str | None] = Lazy(len(self._order), self._text)
        self.digest = _digest(self._runs, num_frames)

    def gather(self, column: Callable[[Index], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """(N,) of a column that an index has, or that is made of one."""
        return np.concatenate([column(run.index) for run in self._runs])[self._order]

    @property
    def silent(self) -> npt.NDArray[np.int64]:
        """Numbers of the utterances without a text."""
        return np.flatnonzero(self.gather(lambda index: np.full(len(index), index.texts is None)))

    def load(self, number: int) -> Tensor:
        """(T, F) float32 features of utterance `number`; DataError with its utt_id where they are not as declared."""
        run, row = self._place(number)
        index, utt_id = run.index, self.utt_ids[number]
        if self.online:
            return _compute(run, row, utt_id)
        assert index.feats is not None
        reference = index.feats[row]
        feats = torch.from_numpy(read_feats(reference, index.folder, utt_id))
        if len(feats) != self.num_frames[number]:
            raise DataError(
                f"{reference}: {utt_id} has {len(feats)} frames, utt2num_frames says {self.num_frames[number]}; "
                "run stage 1 again"
            )
        return feats

    def _place(self, number: int) -> tuple[_Run, int]:
        place = int(self._order[number])
        run = bisect.bisect_right(self._ends, place)
        return self._runs[run], place - (self._ends[run - 1] if run else 0)

    def _utt_id(self, number: int) -> str:
        run, row = self._place(number)
        return run.prefix + run.index.utt_ids[row]

    def _text(self, number: int) -> str | None:
        run, row = self._place(number)
        return None if run.index.texts is None else run.index.texts[row]

    def _count(self, run: _Run) -> npt.NDArray[np.int64]:
        """(N,) frames of a run."""
        index = run.index
        if self.online:
            samples = index.durations * FbankConfig().sample_rate / run.speed
            return FbankConfig().num_frames(samples.astype(np.int64))
        if index.feats is None or index.num_frames is None:
            raise DataError(
                f"{index.folder}: no feats.scp and utt2num_frames for {index.utt_ids[0]}; run stage 1 "
                "(`w2vbert fbank`) and give its dump folder, or set data.features=online"
            )
        return index.num_frames


def _digest(runs: Sequence[_Run], num_frames: Sequence[npt.NDArray[np.int64]]) -> str:
    """SHA-256 over what decides order, batches and contents, wherever files lie and features come from."""
    columns = ("utt_ids", "speakers", "speaker_names", "texts", "starts", "ends")
    found = [
        [run.prefix, hashlib.sha256(frames.data).hexdigest(), *map(run.index.digests.get, columns)]
        for run, frames in zip(runs, num_frames, strict=True)
    ]
    return hashlib.sha256(json.dumps([ORDER, sorted(found, key=str)]).encode()).hexdigest()


def _order(runs: Sequence[_Run]) -> npt.NDArray[np.int32]:
    """(N,) places in all runs, one after another, in byte order of utt_id. DataError for an id that is there twice."""
    count = sum(len(run.index) for run in runs)
    if len(runs) == 1:
        return np.arange(count, dtype=np.int32)
    ids = [run.prefix + one for run in runs for one in run.index.utt_ids.between(0, len(run.index))]
    order = sorted(range(count), key=ids.__getitem__)
    twice = [ids[first] for first, second in itertools.pairwise(order) if ids[first] == ids[second]]
    if twice:
        raise DataError(f"{len(twice)} utterance(s) stand in two of the data directories:\n{summarize(twice)}")
    return np.asarray(order, dtype=np.int32)


def _speakers(runs: Sequence[_Run]) -> npt.NDArray[np.int32]:
    """(N,) numbers of the speakers of all runs, one after another."""
    if len(runs) == 1:
        return runs[0].index.speakers
    names = [
        [run.prefix + one for one in run.index.speaker_names.between(0, len(run.index.speaker_names))] for run in runs
    ]
    numbers = {name: number for number, name in enumerate(sorted(set(itertools.chain(*names))))}
    known = [np.asarray([numbers[name] for name in some], dtype=np.int32) for some in names]
    return np.concatenate([some[run.index.speakers] for some, run in zip(known, runs, strict=True)])


def _compute(run: _Run, row: int, utt_id: str) -> Tensor:
    index = run.index
    try:
        return online_feats(
            index.audio_path(row),
            FbankConfig(),
            start=0.0 if index.starts is None else float(index.starts[row]),
            end=None if index.ends is None else float(index.ends[row]),
            num_samples=None if index.num_samples is None else int(index.num_samples[row]),
            speed=run.speed,
        )
    except AudioError as error:
        raise AudioError(error.reason, error.args[1], f"{utt_id}: {error.detail}") from error
    except DataError as error:
        raise DataError(f"{utt_id}: {error}") from error
