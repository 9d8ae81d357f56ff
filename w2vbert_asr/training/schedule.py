"""Learning-rate schedules: the share of the peak as a pure function of the number of the update."""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["transformer", "cosine", "linear", "constant"]


def lr_share(name: ScheduleName, update: int, *, warmup_steps: int, max_steps: int, floor_share: float) -> float:
    """The learning rate of an update (the first is 1) as a share of its peak.

    All rise linearly over `warmup_steps`. Then `transformer` falls with the inverse square root (Vaswani et al. 2017,
    section 5.3), `cosine` (Loshchilov and Hutter 2017, equation 5) and `linear` fall to `floor_share` at `max_steps`,
    `constant` stays.
    """
    if update <= warmup_steps:
        return update / warmup_steps
    if name == "transformer":
        return math.sqrt(max(warmup_steps, 1) / update)
    if name == "constant":
        return 1.0
    progress = min((update - warmup_steps) / max(max_steps - warmup_steps, 1), 1.0)
    left = 0.5 * (1.0 + math.cos(math.pi * progress)) if name == "cosine" else 1.0 - progress
    return floor_share + (1.0 - floor_share) * left
