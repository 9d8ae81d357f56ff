"""Features of many utterances into archives: shards of a fixed make-up, whatever the number of processes.

Dimension letters: F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from w2vbert_asr.data.archive import write_feats
from w2vbert_asr.data.audio import AudioError
from w2vbert_asr.data.online import online_feats
from w2vbert_asr.data.parallel import end_with_parent, piles
from w2vbert_asr.errors import DataError
from w2vbert_asr.features.fbank import FbankConfig
from w2vbert_asr.features.stats import FeatureSums

SHARDS = 64  # of a corpus of ordinary size, so that the processes end together
SHARD_SECONDS = (300.0, 3600.0)  # the least and the most audio in a shard


@dataclass(frozen=True, kw_only=True)
class Task:
    """One utterance, or one speed-perturbed copy of it. Times in seconds; `num_samples` as declared, or None."""

    utt_id: str
    audio: Path
    start: float
    end: float | None
    num_samples: int | None
    duration: float  # after the change of speed
    speed: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which utterances are of no use: fewer than `min_frames` frames, longer than `max_duration` seconds."""

    min_frames: int
    max_duration: float


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What goes into one archive; without `archive` it is only looked at."""

    path: Path
    archive: bool
    tasks: tuple[Task, ...]
    features: FbankConfig
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What went into it: (utt_id, offset, num_frames), the sums, and (utt_id, reason, detail) of what did not.

    Without an archive every offset is 0.
    """

    name: str
    written: list[tuple[str, int, int]]
    sums: FeatureSums
    dropped: list[tuple[str, str, str]]


def plan(
    tasks: Sequence[Task], folder: Path, features: FbankConfig, limits: Limits, archive: bool = True
) -> Iterator[Shard]:
    """Deal tasks, in their order, into shards of about equal duration."""
    least, most = SHARD_SECONDS
    target = min(max(sum(task.duration for task in tasks) / SHARDS, least), most)
    for number, pile in enumerate(piles(tasks, lambda task: task.duration, target), 1):
        path = folder / f"feats.{number}.ark"
        yield Shard(path=path, archive=archive, tasks=pile, features=features, limits=limits)


def write_shard(shard: Shard) -> ShardResult:
    """Extract the features of a shard into its archive, one utterance in memory at a time, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the processes share the cores; and the numbers do not depend on how many there are
    try:
        return _write(shard)
    finally:
        torch.set_num_threads(threads)


def _write(shard: Shard) -> ShardResult:
    written: list[tuple[str, int, int]] = []
    dropped: list[tuple[str, str, str]] = []
    sums = FeatureSums.of(torch.zeros(0, shard.features.num_mel_bins))
    with ExitStack() as stack:
        file = stack.enter_context(open(shard.path, "wb")) if shard.archive else None
        for task in shard.tasks:
            end_with_parent()
            try:
                feats = _feats(task, shard.features, shard.limits)
            except _Dropped as drop:
                dropped.append((task.utt_id, *drop.args))
                continue
            offset = write_feats(file, task.utt_id, feats.numpy()) if file else 0
            written.append((task.utt_id, offset, len(feats)))
            sums += FeatureSums.of(feats)
    return ShardResult(name=shard.path.name, written=written, sums=sums, dropped=dropped)


class _Dropped(Exception):
    """(reason, detail) why an utterance is left out."""


def _feats(task: Task, features: FbankConfig, limits: Limits) -> torch.Tensor:
    if task.duration > limits.max_duration:
        raise _Dropped("too_long", f"{task.duration:.2f} seconds, at most {limits.max_duration:g} are used")
    try:
        feats = online_feats(
            task.audio,
            features,
            start=task.start,
            end=task.end,
            num_samples=task.num_samples,
            speed=task.speed,
        )
    except AudioError as error:
        raise _Dropped(error.reason, str(error)) from error
    except DataError as error:  # no such file, or no regular one
        raise _Dropped("missing", str(error)) from error
    if len(feats) < limits.min_frames:
        raise _Dropped("too_short", f"{len(feats)} frames, at least {limits.min_frames} are needed")
    if bool((feats == feats[0, 0]).all()):
        raise _Dropped("silent", f"{task.audio}: every sample is the same")
    return feats
