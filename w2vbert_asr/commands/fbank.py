"""`w2vbert fbank`: log-mel filterbanks of a data directory, as a data directory with archives (stage 1).

With `online` the archives are left out: what is usable, the frame counts and the statistics are found all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2vbert_asr import config as configuration
from w2vbert_asr.data import drops, kaldi_dir
from w2vbert_asr.data.dump import Limits, ShardResult, Task, plan, write_shard
from w2vbert_asr.data.files import absolute, atomic_dir
from w2vbert_asr.data.kaldi_dir import DataDir, Utterance
from w2vbert_asr.data.online import speed_prefix
from w2vbert_asr.data.parallel import map_parallel, num_processes
from w2vbert_asr.data.source import find_whole, input_digest, would_replace, write_source
from w2vbert_asr.errors import DataError
from w2vbert_asr.features.fbank import FbankConfig
from w2vbert_asr.features.stats import FeatureSums

FORMAT = 1  # raise it when the same input would give other numbers
SECONDS_PER_PROCESS = 3600.0  # less audio than this is done before another process has started
POLICY = ("too_short", "too_long")  # reasons that are no damage


@dataclass(frozen=True, kw_only=True)
class Config:
    """Stage 1. Durations in seconds."""

    data: Path
    out: Path
    stats: bool = False  # also feature_stats.safetensors, over all frames written
    speeds: tuple[float, ...] = (1.0,)  # factors; copies other than 1.0 have ids and speakers that begin with sp0.9-
    online: bool = False  # no archives: data.features=online computes the features while training, data.speeds copies
    min_frames: int = 10  # fewer leave no frame after the sub-sampling by 4
    max_duration: float = 3600.0  # longer recordings need segments
    max_dropped: float = 0.001  # share of utterances with damaged audio that is put up with
    num_jobs: int = 0  # processes at most; 0: one a core
    features: FbankConfig = field(default_factory=FbankConfig)

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [f"speeds: {speed} is not in 0.5 to 2" for speed in self.speeds if not 0.5 <= speed <= 2]
        if not self.speeds or len(set(map(speed_prefix, self.speeds))) < len(self.speeds):
            found.append(f"speeds: {list(self.speeds)} must be different factors, such as 0.9 1.0 1.1")
        if self.online and self.speeds != (1.0,):
            found.append(f"speeds: {list(self.speeds)} with online; data.speeds of the training makes the copies there")
        if not 0 <= self.max_dropped <= 1:
            found.append(f"max_dropped: {self.max_dropped} is no share in 0 to 1; 0.001 is usual")
        if self.min_frames < 1 or self.max_duration <= 0:
            found.append("min_frames and max_duration must be positive")
        if self.num_jobs < 0:
            found.append(f"num_jobs: {self.num_jobs} is negative; 0 is one process a core")
        return found + would_replace(self.out, self.data)


def run(config: Config) -> dict[str, object]:
    """Write the dump folder `config.out`, or say that it is whole already."""
    data = kaldi_dir.read(config.data)
    copies = _copies(data, config)
    options = {**configuration.to_dict(config), "data": None, "out": absolute(config.out), "num_jobs": None}
    digest = input_digest(data, [FORMAT, options])
    summary = find_whole(config.out, digest)
    if summary is not None:
        print(f"{config.out}: whole, made before from the same input")
        return {**summary, "made": False}
    with atomic_dir(config.out) as folder:
        results = _extract(data, copies, config, folder)
        summary = _finish(data, copies, config, folder, results)
        write_source(folder, digest, summary)
    print(f"{config.out}: {summary['utterances']} utterances, {summary['hours']:.2f} hours")
    return {**summary, "made": True}


def _copies(data: DataDir, config: Config) -> dict[str, tuple[Utterance, float]]:
    """utt_id in the dump folder -> utterance and speed, in byte order."""
    pairs = [(utterance, speed) for utterance in data.utterances() for speed in config.speeds]
    copies = {speed_prefix(speed) + utterance.utt_id: (utterance, speed) for utterance, speed in pairs}
    if len(copies) < len(pairs):
        raise DataError(f"{data.path}: has speed-perturbed copies (sp...-) already; give --speeds 1.0")
    return dict(sorted(copies.items()))


def _extract(
    data: DataDir, copies: dict[str, tuple[Utterance, float]], config: Config, folder: Path
) -> list[ShardResult]:
    tasks = [
        Task(
            utt_id=utt_id,
            audio=data.audio_path(utterance.rec_id),
            start=utterance.start,
            end=utterance.end,
            num_samples=utterance.num_samples,
            duration=utterance.duration / speed,
            speed=speed,
        )
        for utt_id, (utterance, speed) in copies.items()
    ]
    limits = Limits(min_frames=config.min_frames, max_duration=config.max_duration)
    shards = list(plan(tasks, folder, config.features, limits, archive=not config.online))
    useful = 1 + int(sum(task.duration for task in tasks) / SECONDS_PER_PROCESS)
    num_jobs = min(num_processes(config.num_jobs), useful, len(shards))
    return list(map_parallel(write_shard, shards, num_jobs, f"fbank {config.data.name}"))


def _finish(
    data: DataDir,
    copies: dict[str, tuple[Utterance, float]],
    config: Config,
    folder: Path,
    results: Sequence[ShardResult],
) -> dict[str, Any]:
    """Tables, report and statistics beside the archives; returns the summary. DataError if too much was dropped."""
    dropped = [drop for result in results for drop in result.dropped]
    drops.judge(data.path, dropped, len(copies), config.max_dropped, harmless=POLICY)
    place = absolute(config.out)
    feats_scp: dict[str, str] = {}
    frames: dict[str, int] = {}
    for result in results:
        for utt_id, offset, num_frames in result.written:
            if not config.online:
                feats_scp[utt_id] = f"{place}/{result.name}:{offset}"
            frames[utt_id] = num_frames
    _write_tables(data, {utt_id: copies[utt_id] for utt_id in frames}, feats_scp, frames, folder)
    (folder / drops.REPORT).write_text(drops.report(dropped), encoding="utf-8")
    if config.stats:
        first, *others = (result.sums for result in results)
        sums: FeatureSums = sum(others, first)
        sums.stats().save(folder / "feature_stats.safetensors")
    seconds = sum(copies[utt_id][0].duration / copies[utt_id][1] for utt_id in frames)
    return {
        "out": str(config.out),
        "utterances": len(frames),
        "frames": sum(frames.values()),
        "hours": seconds / 3600,
        "dropped": dict(sorted(Counter(reason for _, reason, _ in dropped).items())),
    }


def _write_tables(
    data: DataDir,
    copies: dict[str, tuple[Utterance, float]],
    feats_scp: dict[str, str],
    frames: dict[str, int],
    folder: Path,
) -> None:
    """The data directory's tables for what was written. A copy has the audio and segment of its original."""
    if data.segments:
        segments = {utt_id: data.segments[utterance.utt_id] for utt_id, (utterance, _) in copies.items()}
        recordings = {utterance.rec_id: utterance.rec_id for utterance, _ in copies.values()}
    else:
        segments = {}
        recordings = {utt_id: utterance.rec_id for utt_id, (utterance, _) in copies.items()}
    samples = {
        utt_id: utterance.num_samples for utt_id, (utterance, _) in copies.items() if utterance.num_samples is not None
    }
    kaldi_dir.write_tables(
        folder,
        wav_scp={name: absolute(data.audio_path(rec_id)) for name, rec_id in recordings.items()},
        utt2spk={utt_id: speed_prefix(speed) + utterance.speaker for utt_id, (utterance, speed) in copies.items()},
        utt2dur={utt_id: utterance.duration / speed for utt_id, (utterance, speed) in copies.items()},
        text=None if data.text is None else {utt_id: utt.text or "" for utt_id, (utt, _) in copies.items()},
        segments=segments,
        feats_scp=feats_scp or None,
        utt2num_frames=frames,
        num_samples=samples if data.num_samples is not None else None,
    )
