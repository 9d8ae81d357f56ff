"""What a run knows beside its weights: the counters and scores that `state.json` of a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from w2vbert_asr.errors import DataError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The state after `step` updates.

    position: global batches consumed. frames: feature frames seen, over all ranks. evaluated: step of the last
    evaluation. best: (score, step), best first, of checkpoints that are kept. best_step: of the best evaluation so far.
    skipped: steps without update (not finite) of the last 1,000. first_loss: of the first update. high_losses: log
    lines in a row whose loss stands far above it. log_size: bytes of log.jsonl. finished: the run is at its end.
    """

    step: int = 0
    position: int = 0
    epoch: int = 0
    frames: int = 0
    evaluated: int = 0
    best: tuple[tuple[float, int], ...] = ()
    best_step: int = 0
    skipped: tuple[int, ...] = ()
    first_loss: float | None = None
    high_losses: int = 0
    log_size: int = 0
    finished: bool = False
    world_size: int = 1
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the number of the format."""
        return {"format": FORMAT, **asdict(self)}


def from_json(tree: Mapping[str, Any], where: str) -> TrainState:
    """The inverse of `to_json`. Raises DataError for another format and for missing or unknown entries."""
    entries = dict(tree)
    found = entries.pop("format", None)
    if found != FORMAT:
        raise DataError(
            f"{where}: checkpoint format {found!r}; this version reads format {FORMAT}: use the version that wrote it"
        )
    names = {one.name for one in fields(TrainState)}
    if entries.keys() != names:
        raise DataError(f"{where}: missing or unknown entries: {', '.join(sorted(entries.keys() ^ names))}")
    entries["best"] = tuple((float(score), int(step)) for score, step in entries["best"])
    entries["skipped"] = tuple(entries["skipped"])
    return TrainState(**entries)
