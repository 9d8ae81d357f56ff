"""Features of utterances by number: read from Kaldi archives, or computed from their audio.

Dimension letters: T frames (10 ms), F mel bins.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from w2vbert_asr.data.archive import read_feats
from w2vbert_asr.data.kaldi_dir import DataDir, Utterance, read
from w2vbert_asr.data.online import online_feats, speed_prefix
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.features.fbank import FbankConfig


class FeatureReader:
    """The utterances of several data directories, sorted by utt_id, and their features.

    online: from audio, once for each speed factor (ids and speakers then begin with `sp0.9-`), else from `feats.scp`.
    """

    def __init__(self, folders: Sequence[Path], *, online: bool, speeds: Sequence[float] = (1.0,)) -> None:
        dirs = [read(folder) for folder in folders]
        entries = [
            (speed_prefix(speed) + utterance.utt_id, utterance, data, speed)
            for data in dirs
            for utterance in data.utterances()
            for speed in (speeds if online else (1.0,))
        ]
        entries.sort(key=lambda entry: entry[0].encode())
        self.utt_ids = [entry[0] for entry in entries]
        twice = [first for first, second in itertools.pairwise(self.utt_ids) if first == second]
        if twice:
            raise DataError(f"{len(twice)} utterance(s) stand in two of the data directories:\n{summarize(twice)}")
        self.online = online
        self._entries = entries
        self.speakers = [speed_prefix(speed) + utterance.speaker for _, utterance, _, speed in entries]
        self.texts = [utterance.text for _, utterance, _, _ in entries]
        self.num_frames = [self._count(utterance, data, speed) for _, utterance, data, speed in entries]

    def _count(self, utterance: Utterance, data: DataDir, speed: float) -> int:
        if self.online:
            samples = int(utterance.duration * FbankConfig().sample_rate / speed)
            return FbankConfig().num_frames(samples)
        if utterance.feats is None or utterance.num_frames is None:
            raise DataError(
                f"{data.path}: no feats.scp and utt2num_frames for {utterance.utt_id}; run stage 1 (`w2vbert fbank`) "
                "and give its dump folder, or set data.features=online"
            )
        return utterance.num_frames

    def load(self, index: int) -> Tensor:
        """(T, F) float32 features of utterance number `index`; DataError where they are not what the tables say."""
        utt_id, utterance, data, speed = self._entries[index]
        if self.online:
            return self._compute(utterance, data, speed)
        feats = torch.from_numpy(read_feats(utterance.feats or "", data.path, utt_id))
        if len(feats) != self.num_frames[index]:
            raise DataError(
                f"{utterance.feats}: {utt_id} has {len(feats)} frames, utt2num_frames says {self.num_frames[index]}; "
                "run stage 1 again"
            )
        return feats

    def _compute(self, utterance: Utterance, data: DataDir, speed: float) -> Tensor:
        return online_feats(
            data.audio_path(utterance.rec_id),
            FbankConfig(),
            start=utterance.start,
            end=utterance.end,
            num_samples=utterance.num_samples,
            speed=speed,
        )
