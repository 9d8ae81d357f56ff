"""`w2vbert shard`: the audio of a data directory packed into tar shards, as a data directory of its own.

The files are copied as they are. A corpus of millions of small files becomes a few thousand large ones, which file
systems and networks like better; every verb reads them alike.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vbert_asr.data import drops, kaldi_dir
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.data.fix import companions
from w2vbert_asr.data.kaldi_dir import DataDir
from w2vbert_asr.data.parallel import map_parallel, num_processes
from w2vbert_asr.data.shards import Recording, ShardResult, plan, write_shard
from w2vbert_asr.data.source import find_whole, input_digest, would_replace, write_source

FORMAT = 1  # raise it when the same input would give other archives


@dataclass(frozen=True, kw_only=True)
class Config:
    """data: data directory. out: data directory to write, with the shards in it, which may be moved."""

    data: Path
    out: Path
    shard_seconds: float = 36_000.0  # of audio in a shard: 0.6 GB in FLAC, 1.2 GB in WAV at 16 kHz
    max_dropped: float = 0.001  # share of utterances whose audio is missing that is put up with
    num_jobs: int = 0  # processes at most; 0: one a core

    def problems(self) -> list[str]:
        """What is wrong with the values."""
        found = [] if self.shard_seconds > 0 else [f"shard_seconds: {self.shard_seconds} is not positive"]
        if not 0 <= self.max_dropped <= 1:
            found.append(f"max_dropped: {self.max_dropped} is no share in 0 to 1; 0.001 is usual")
        if self.num_jobs < 0:
            found.append(f"num_jobs: {self.num_jobs} is negative; 0 is one process a core")
        return found + would_replace(self.out, self.data)


def run(config: Config) -> dict[str, object]:
    """Write the data directory `config.out`, or say that it is whole already."""
    data = kaldi_dir.read(config.data)
    digest = input_digest(data, ["shard", FORMAT, config.shard_seconds, config.max_dropped])
    summary = find_whole(config.out, digest)
    if summary is not None:
        print(f"{config.out}: whole, made before from the same input")
        return {**summary, "made": False}
    with atomic_dir(config.out) as folder:
        shards = list(plan(_recordings(data), folder, config.shard_seconds))
        num_jobs = min(num_processes(config.num_jobs), len(shards))
        results = list(map_parallel(write_shard, shards, num_jobs, f"shard {config.data.name}"))
        summary = _finish(data, config, folder, results)
        write_source(folder, digest, summary)
    print(f"{config.out}: {summary['recordings']} recordings in {summary['shards']} shard(s), {summary['bytes']} bytes")
    return {**summary, "made": True}


def _recordings(data: DataDir) -> list[Recording]:
    """Those that utterances are cut from, in byte order of rec_id."""
    seconds: dict[str, float] = defaultdict(float)
    for utterance in data.utterances():
        seconds[utterance.rec_id] += utterance.duration
    return [Recording(rec_id=one, audio=data.audio_path(one), duration=seconds[one]) for one in sorted(seconds)]


def _finish(data: DataDir, config: Config, folder: Path, results: list[ShardResult]) -> dict[str, Any]:
    """The tables and the report beside the shards; returns the summary. DataError if too much was dropped."""
    lost = {rec_id: (reason, detail) for result in results for rec_id, reason, detail in result.dropped}
    utterances = data.utterances()
    dropped = [(utterance.utt_id, *lost[utterance.rec_id]) for utterance in utterances if utterance.rec_id in lost]
    drops.judge(data.path, dropped, len(utterances), config.max_dropped)
    kept = [utterance.utt_id for utterance in utterances if utterance.rec_id not in lost]
    packed = DataDir(
        path=folder,
        wav_scp={rec_id: f"{result.name}:{offset}" for result in results for rec_id, offset in result.written},
        segments={utt_id: data.segments[utt_id] for utt_id in kept} if data.segments else {},
        text=None if data.text is None else {utt_id: data.text[utt_id] for utt_id in kept},
        utt2spk={utt_id: data.utt2spk[utt_id] for utt_id in kept},
        utt2dur={utt_id: data.utt2dur[utt_id] for utt_id in kept},
        num_samples=None if data.num_samples is None else {utt_id: data.num_samples[utt_id] for utt_id in kept},
    )
    kaldi_dir.write_tables(
        folder,
        wav_scp=packed.wav_scp,
        segments=packed.segments or None,
        text=packed.text,
        utt2spk=packed.utt2spk,
        utt2dur=packed.utt2dur,
        num_samples=packed.num_samples,
    )
    for name, contents in {drops.REPORT: drops.report(dropped), **companions(data, packed)}.items():
        (folder / name).write_text(contents, encoding="utf-8", newline="\n")
    return {
        "out": str(config.out),
        "utterances": len(kept),
        "recordings": len(packed.wav_scp),
        "hours": sum(packed.utt2dur.values()) / 3600,
        "shards": len(results),
        "bytes": sum((folder / result.name).stat().st_size for result in results),
        "dropped": dict(sorted(Counter(reason for _, reason, _ in dropped).items())),
    }
