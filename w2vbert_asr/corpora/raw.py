"""What every corpus reader yields, and the one writer that makes data directories of it."""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from w2vbert_asr.data import drops, kaldi_dir
from w2vbert_asr.data.inspection import RECORD, Inspection, Piece, crashed, inspect, record
from w2vbert_asr.data.parallel import map_parallel
from w2vbert_asr.data.tables import fits
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.text.normalize import normalize


@dataclass(frozen=True, slots=True)
class RawUtterance:
    """One utterance as a corpus has it. `start` and `end` in seconds; None is the end of the file."""

    utt_id: str  # begins with the speaker, so that both sort alike
    speaker: str
    audio: Path  # need not exist: a transcript without audio is listed as dropped
    text: str | None
    start: float = 0.0
    end: float | None = None


class SetSummary(TypedDict):
    """What was written of a set; `dropped` is reason -> count."""

    utterances: int
    speakers: int
    hours: float
    dropped: dict[str, int]


Kept = dict[str, tuple[RawUtterance, Inspection]]  # by utt_id
Dropped = dict[str, tuple[str, str]]  # by utt_id: reason, detail


def write_sets(out: Path, sets: Mapping[str, Sequence[RawUtterance]], num_jobs: int = 0) -> dict[str, SetSummary]:
    """Read all audio once and write a data directory out/<set> for each set, with absolute audio paths.

    Utterances that cannot be used are left out and listed, with the reason, in `dropped.tsv` of their set. So are those
    without text in a set where others have it; a set in which none has text is unlabelled. Text is normalised to NFC.
    Returns what was written, by set. DataError where a set has nothing left, or an utt_id twice.
    """
    flat = [raw for utterances in sets.values() for raw in utterances]
    pieces = [Piece(path=raw.audio.absolute(), start=raw.start, end=raw.end) for raw in flat]
    found = iter(list(map_parallel(inspect, pieces, num_jobs, "reading audio", crashed)))
    judged = {name: _judge(out / name, [(raw, next(found)) for raw in utterances]) for name, utterances in sets.items()}
    _note_shared_speakers({name: kept for name, (kept, _) in judged.items()})
    return {name: _write_set(out / name, kept, dropped) for name, (kept, dropped) in judged.items()}


def _judge(folder: Path, results: Sequence[tuple[RawUtterance, Inspection]]) -> tuple[Kept, Dropped]:
    """The usable utterances of a set, and (reason, detail) of the others; nothing is written yet."""
    twice = [utt_id for utt_id, count in Counter(raw.utt_id for raw, _ in results).items() if count > 1]
    if twice:
        raise DataError(f"{folder}: {len(twice)} utt_id(s) more than once; rename them:\n{summarize(twice)}")
    labelled = any(raw.text is not None for raw, _ in results)
    reasons = {raw.utt_id: _unusable(raw, inspection, labelled) for raw, inspection in results}
    dropped = {utt_id: reason for utt_id, reason in reasons.items() if reason}
    kept = {raw.utt_id: (raw, inspection) for raw, inspection in results if raw.utt_id not in dropped}
    counts = Counter(reason for reason, _ in dropped.values())
    table = summarize([f"{count} {reason}: {_example(dropped, reason)}" for reason, count in counts.most_common()])
    if not kept:
        raise DataError(f"{folder}: nothing left of {len(results)} utterance(s){':' if table else ''}\n{table}")
    if dropped:
        print(f"{folder}: {len(dropped)} of {len(results)} utterances dropped:\n{table}", file=sys.stderr)
    return kept, dropped


def _write_set(folder: Path, kept: Kept, dropped: Dropped) -> SetSummary:
    recordings = _recordings([raw for raw, _ in kept.values()])
    cut = any(raw.start or raw.end is not None for raw, _ in kept.values())
    labelled = any(raw.text is not None for raw, _ in kept.values())
    segments = {utt_id: found.segment(recordings[raw.audio], raw.start) for utt_id, (raw, found) in kept.items()}
    written = {
        utt_id: Piece(
            path=raw.audio,
            start=segments[utt_id].start if cut else 0.0,
            end=segments[utt_id].end if cut else None,
        )
        for utt_id, (raw, _) in kept.items()
    }
    inspected = record(written, {utt_id: found for utt_id, (_, found) in kept.items()})
    report = drops.report([(utt_id, *dropped[utt_id]) for utt_id in sorted(dropped)])
    kaldi_dir.write(
        folder,
        wav_scp={recordings[raw.audio] if cut else utt: str(raw.audio.absolute()) for utt, (raw, _) in kept.items()},
        utt2spk={utt_id: raw.speaker for utt_id, (raw, _) in kept.items()},
        utt2dur={utt_id: found.duration for utt_id, (_, found) in kept.items()},
        num_samples={utt_id: found.num_samples for utt_id, (_, found) in kept.items()},
        text={utt_id: normalize(raw.text or "") for utt_id, (raw, _) in kept.items()} if labelled else None,
        segments=segments if cut else None,
        extra={drops.REPORT: report, RECORD: inspected},
    )
    return {
        "utterances": len(kept),
        "speakers": len({raw.speaker for raw, _ in kept.values()}),
        "hours": round(sum(inspection.duration for _, inspection in kept.values()) / 3600, 4),
        "dropped": dict(Counter(reason for reason, _ in dropped.values())),
    }


def _unusable(raw: RawUtterance, inspection: Inspection, labelled: bool) -> tuple[str, str] | None:
    """(reason, detail), or None for an utterance that can be used."""
    path = str(raw.audio.absolute())
    if not fits(raw.utt_id, raw.speaker) or not fits(raw.speaker, ""):
        return "bad_id", f"utt_id {raw.utt_id!r} or speaker {raw.speaker!r} has blanks or control characters"
    if not fits(raw.utt_id, path) or path.endswith("|"):
        return "bad_path", f"{path!r} does not fit into wav.scp; rename the file"
    if inspection.reason:
        return inspection.reason, inspection.detail
    if labelled and raw.text is None:
        return "no_text", f"{path}: has no transcript"
    return None


def _recordings(utterances: Sequence[RawUtterance]) -> dict[Path, str]:
    """audio -> rec_id: the file name, made unique."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for audio in sorted({raw.audio for raw in utterances}):
        name = stem = re.sub(r"\s", "_", audio.stem)
        for number in range(2, len(utterances) + 2):
            if name not in taken:
                break
            name = f"{stem}-{number}"
        names[audio] = name
        taken.add(name)
    return names


def _example(dropped: Dropped, reason: str) -> str:
    return next(f"{utt_id} ({detail})" for utt_id, (word, detail) in dropped.items() if word == reason)


def _note_shared_speakers(sets: Mapping[str, Kept]) -> None:
    """Speakers in two sets are legal, and a leak where one of the two is for testing."""
    speakers = {name: {raw.speaker for raw, _ in kept.values()} for name, kept in sets.items()}
    for first, second in itertools.combinations(speakers, 2):
        shared = sorted(speakers[first] & speakers[second])
        if shared:
            print(
                f"note: {len(shared)} speaker(s) in {first} and in {second}: {', '.join(shared[:10])}", file=sys.stderr
            )
