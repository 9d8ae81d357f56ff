"""Features of utterances by number: read from Kaldi archives, or computed from their audio.

Dimension letters: T frames (10 ms), F mel bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kaldiio
import torch
from torch import Tensor

from w2vbert_asr.data.audio import perturb_speed, read_audio
from w2vbert_asr.data.kaldi_dir import DataDir, Utterance, read
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.features.fbank import FbankConfig, fbank


class FeatureReader:
    """The utterances of several data directories, sorted by utt_id, and their features.

    online: from audio, once for each speed factor (ids and speakers then begin with `sp0.9-`), else from `feats.scp`.
    """

    def __init__(self, folders: Sequence[Path], *, online: bool, speeds: Sequence[float] = (1.0,)) -> None:
        dirs = [read(folder) for folder in folders]
        entries = [
            (_prefix(speed) + utterance.utt_id, utterance, data, speed)
            for data in dirs
            for utterance in data.utterances()
            for speed in (speeds if online else (1.0,))
        ]
        entries.sort(key=lambda entry: entry[0].encode())
        self.utt_ids = [entry[0] for entry in entries]
        twice = [first for first, second in zip(self.utt_ids, self.utt_ids[1:]) if first == second]
        if twice:
            raise DataError(f"{len(twice)} utterance(s) stand in two of the data directories:\n{summarize(twice)}")
        self.online = online
        self._entries = entries
        self.speakers = [_prefix(speed) + utterance.speaker for _, utterance, _, speed in entries]
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
        try:
            feats = torch.from_numpy(kaldiio.load_mat(_located(utterance.feats or "", data.path)).copy())
        except (OSError, ValueError, EOFError, AssertionError) as error:
            raise DataError(f"{utterance.feats}: {utt_id} cannot be read ({error}); run stage 1 again") from error
        if len(feats) != self.num_frames[index]:
            raise DataError(
                f"{utterance.feats}: {utt_id} has {len(feats)} frames, utt2num_frames says {self.num_frames[index]}; "
                "run stage 1 again"
            )
        return feats.float()

    def _compute(self, utterance: Utterance, data: DataDir, speed: float) -> Tensor:
        config = FbankConfig()
        samples = read_audio(
            data.audio_path(utterance.rec_id),
            config.sample_rate,
            utterance.start,
            utterance.end,
            utterance.num_samples,
        )
        if speed != 1.0:
            samples = perturb_speed(samples, speed)
        return fbank(torch.from_numpy(samples), config.sample_rate)


def _prefix(speed: float) -> str:
    return "" if speed == 1.0 else f"sp{speed:g}-"


def _located(feats: str, folder: Path) -> str:
    """Where an archive is: as feats.scp says, or beside feats.scp if the folder has been moved."""
    path, _, offset = feats.rpartition(":")
    return feats if Path(path).exists() else f"{folder / Path(path).name}:{offset}"
