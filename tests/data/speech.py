"""Small audio files and data directories for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from w2vbert_asr.data import kaldi_dir


def noise(seconds: float = 0.5, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """Noise, different for each seed."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def write_audio(path: Path, seconds: float = 0.5, seed: int = 0, rate: int = 16000, **options: Any) -> Path:
    """A file of noise, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, seed, rate), rate, **options)
    return path


def make_dir(root: Path, num_utts: int = 4, seed: int = 0) -> Path:
    """root/data: speakers s0 and s1, utterances of 0.5 seconds, audio beside it in root/audio."""
    utts = [f"s{i % 2}-u{i}" for i in range(num_utts)]
    for i, utt_id in enumerate(utts):
        write_audio(root / "audio" / f"{utt_id}.wav", seed=1000 * seed + i)
    kaldi_dir.write(
        root / "data",
        wav_scp={utt_id: f"../audio/{utt_id}.wav" for utt_id in utts},
        utt2spk={utt_id: utt_id[:2] for utt_id in utts},
        utt2dur=dict.fromkeys(utts, 0.5),
        text={utt_id: f"WORDS OF {utt_id.upper()}" for utt_id in utts},
        num_samples=dict.fromkeys(utts, 8000),
    )
    return root / "data"


def edit(path: Path, old: str, new: str) -> None:
    """Replace the one place where `old` stands in a file."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")
