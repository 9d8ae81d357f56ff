"""SpecAugment: random masks over frequency and time of an utterance's features (T frames, F features).

Source: Park et al. 2019, "SpecAugment", section 2; the adaptive time masks are those of Park et al. 2020,
"SpecAugment on Large Scale Datasets". No time warping.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Masks of an utterance; the defaults are those of the W2V-BERT paper. No masks: both numbers 0."""

    num_freq_masks: int = 2
    freq_mask_width: int = 27  # features, at most
    num_time_masks: int = 10  # at most, where time_mask_rate is set
    time_mask_ratio: float = 0.05  # of the utterance, the widest a time mask may be
    time_mask_rate: float = 0.0  # time masks per frame, so that short utterances have fewer; 0: always num_time_masks

    def problems(self) -> list[str]:
        """Values out of range."""
        found = [
            f"{name}: {getattr(self, name)} is negative; 0 or more"
            for name in ("num_freq_masks", "freq_mask_width", "num_time_masks", "time_mask_rate")
            if getattr(self, name) < 0
        ]
        if not 0 <= self.time_mask_ratio <= 1:
            found.append(f"time_mask_ratio: {self.time_mask_ratio} is not in 0 to 1; 0.05 is usual")
        return found


def spec_augment(feats: Tensor, rng: np.random.Generator, config: SpecAugmentConfig) -> Tensor:
    """(T, F) normalised features -> a copy of them with 0, their mean, in the masks.

    Every width is drawn evenly from 0 to its limit, every start evenly from where the mask fits.
    """
    num_frames, num_features = feats.shape
    num_time_masks = config.num_time_masks
    if config.time_mask_rate > 0:
        num_time_masks = min(num_time_masks, int(config.time_mask_rate * num_frames))
    masked = feats.clone()
    for first, last in _spans(rng, config.num_freq_masks, config.freq_mask_width, num_features):
        masked[:, first:last] = 0
    for first, last in _spans(rng, num_time_masks, int(config.time_mask_ratio * num_frames), num_frames):
        masked[first:last] = 0
    return masked


def _spans(rng: np.random.Generator, count: int, max_width: int, length: int) -> list[tuple[int, int]]:
    """`count` spans (first, one past the last) inside `length`."""
    widths = rng.integers(0, min(max_width, length), endpoint=True, size=count)
    starts = rng.integers(0, length - widths, endpoint=True)
    return [(int(start), int(start + width)) for start, width in zip(starts, widths, strict=True)]
