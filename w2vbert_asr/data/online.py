"""Features of one utterance straight from its audio: what stage 1 writes, and what the loader computes on its way.

Dimension letters: T frames, F mel bins.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from w2vbert_asr.data.audio import perturb_speed, read_audio
from w2vbert_asr.features.fbank import FbankConfig, extract


def speed_prefix(speed: float) -> str:
    """What utt_ids and speakers of a copy at `speed` begin with: `sp0.9-`; nothing for the original."""
    return "" if speed == 1.0 else f"sp{speed:g}-"


def online_feats(
    path: Path,
    config: FbankConfig,
    *,
    start: float = 0.0,
    end: float | None = None,
    num_samples: int | None = None,
    speed: float = 1.0,
) -> Tensor:
    """The (T, F) features of a file, or of its piece from `start` to `end` seconds, played `speed` times faster.

    `num_samples` is what was declared when the data were prepared. Raises AudioError as `read_audio` does.
    """
    samples = read_audio(path, config.sample_rate, start, end, num_samples)
    if speed != 1.0:
        samples = perturb_speed(samples, speed)
    return extract(torch.from_numpy(samples), config)
