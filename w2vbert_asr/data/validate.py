"""Every check of a data directory, reported at once: Kaldi's own, what a transcript may hold, and the audio itself."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from w2vbert_asr.data import kaldi_dir, tables
from w2vbert_asr.data.inspection import RECORD, Inspection, Piece, crashed, inspect, recall
from w2vbert_asr.data.kaldi_dir import DataDir
from w2vbert_asr.data.parallel import map_parallel
from w2vbert_asr.data.tables import Problem
from w2vbert_asr.errors import DataError
from w2vbert_asr.text.normalize import irregularities

# Kaldi's other tables, by what their ids are; of these only the ids are checked.
COMPANIONS: dict[str, Literal["utterance", "speaker", "recording"]] = {
    "spk2gender": "speaker",
    "cmvn.scp": "speaker",
    "spk2warp": "speaker",
    "utt2lang": "utterance",
    "utt2uniq": "utterance",
    "utt2warp": "utterance",
    "vad.scp": "utterance",
    "reco2dur": "recording",
    "reco2file_and_channel": "recording",
}
_RESERVED = ("<s>", "</s>", "#0")  # Kaldi's language models use these as words
_DURATION_TOLERANCE = 0.05  # seconds: Kaldi counts durations in frames


def validate(
    path: Path,
    audio: bool = True,
    strict: bool = False,
    num_jobs: int = 0,
    seen: dict[bytes, str] | None = None,
    anew: bool = False,
) -> list[Problem]:
    """Every defect of a data directory. `audio`: read each file as well, but those that have not changed since
    `prepare` read them; with `anew` those, too. `strict`: warnings become errors.

    `seen` (digest of the samples -> where) is shared between directories to find the same audio under two names.
    DataError only where there is no directory at all.
    """
    problems: list[Problem] = []
    data = kaldi_dir.load(Path(path), problems)
    _check_speakers(data, problems)
    _check_text(data, problems)
    _check_companions(data, problems)
    if audio:
        _check_audio(data, problems, num_jobs, {} if seen is None else seen, anew)
    return [replace(p, severity="error") if strict and p.severity == "warning" else p for p in problems]


def companion_ids(data: DataDir) -> dict[str, Iterable[str]]:
    """The ids that a companion of each kind must have."""
    speakers = dict.fromkeys(data.utt2spk.values())
    return {"utterance": data.utt2spk, "speaker": speakers, "recording": data.wav_scp}


def _check_speakers(data: DataDir, problems: list[Problem]) -> None:
    speakers = [data.utt2spk[utt_id] for utt_id in sorted(data.utt2spk)]
    for before, after in itertools.pairwise(speakers):
        if after < before:
            message = f"sorted by utterance, {after} comes after {before}: begin every utt_id with its speaker"
            problems.append(Problem("speaker_order", "warning", "utt2spk", None, message))
            break
    path = data.path / "spk2utt"
    if not path.exists() and not path.is_symlink():
        problems.append(Problem("missing_table", "error", "spk2utt", None, "missing; `w2vbert fix` makes it"))
        return
    found = _read(path, problems)
    expected = data.spk2utt
    for speaker in sorted(found.keys() | expected.keys()):
        if sorted(found.get(speaker, "").split()) != expected.get(speaker, []):
            message = f"speaker {speaker} does not have the utterances of utt2spk; `w2vbert fix` makes it anew"
            problems.append(Problem("spk2utt", "error", "spk2utt", None, message))


def _check_text(data: DataDir, problems: list[Problem]) -> None:
    mended: Counter[str] = Counter()
    control: list[str] = []
    reserved: list[str] = []
    odd: list[str] = []
    for utt_id, text in (data.text or {}).items():
        if not (text.isascii() and text.isprintable()):
            kinds = irregularities(text)
            if kinds["control"]:
                control.append(utt_id)
            elif kinds:
                odd.append(utt_id)
                mended += kinds
        if ("<" in text or "#" in text) and not set(_RESERVED).isdisjoint(text.split()):
            reserved.append(utt_id)
    empty = [utt_id for utt_id, text in (data.text or {}).items() if not text]
    lines = tables.line_numbers(data.path / "text", {*control, *reserved}) if control or reserved else {}
    for utt_id in control:
        message = f"{utt_id}: has a control character; `w2vbert fix` removes it"
        problems.append(Problem("control_character", "error", "text", lines.get(utt_id), message))
    for utt_id in reserved:
        message = f"{utt_id}: has one of the reserved words {' '.join(_RESERVED)}; remove it"
        problems.append(Problem("reserved_word", "warning", "text", lines.get(utt_id), message))
    if odd:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(mended.items()))
        message = f"{len(odd)} transcript(s) will be normalised ({counts}), such as {odd[0]}"
        problems.append(Problem("normalization", "warning", "text", None, message))
    if empty:
        problems.append(
            Problem("empty_text", "note", "text", None, f"{len(empty)} empty transcript(s), kept: {empty[0]}")
        )


def _check_companions(data: DataDir, problems: list[Problem]) -> None:
    expected = companion_ids(data)
    for name, kind in COMPANIONS.items():
        path = data.path / name
        if path.exists() or path.is_symlink():
            found, wanted = _read(path, problems).keys(), set(expected[kind])
            if found != wanted:
                message = f"{len(found - wanted)} {kind}(s) too many and {len(wanted - found)} missing"
                some = ", ".join(sorted(found ^ wanted)[:10])
                problems.append(Problem("companion", "error", name, None, f"{message}: {some}"))


def _read(path: Path, problems: list[Problem]) -> dict[str, str]:
    try:
        return tables.read_table(path, tables.parse_text, problems)
    except DataError as error:
        problems.append(Problem("unreadable", "error", path.name, None, str(error)))
        return {}


def pieces(data: DataDir) -> dict[str, Piece]:
    """utt_id -> its audio, in byte order, for every utterance whose recording is known."""
    counts = data.num_samples or {}
    if not data.segments:
        found = {utt_id: Piece(path=data.audio_path(utt_id), num_samples=counts.get(utt_id)) for utt_id in data.wav_scp}
    else:
        found = {
            utt_id: Piece(
                path=data.audio_path(part.rec_id), start=part.start, end=part.end, num_samples=counts.get(utt_id)
            )
            for utt_id, part in data.segments.items()
            if part.rec_id in data.wav_scp
        }
    return dict(sorted(found.items()))


def _check_audio(data: DataDir, problems: list[Problem], num_jobs: int, seen: dict[bytes, str], anew: bool) -> None:
    table = "segments" if data.segments else "wav.scp"
    everything = pieces(data)
    known = {} if anew else recall(data.path / RECORD, everything)
    todo = {utt_id: piece for utt_id, piece in everything.items() if utt_id not in known}
    found: list[tuple[str, str, Literal["error", "warning"], str]] = []
    inspections = map_parallel(inspect, list(todo.values()), num_jobs, f"reading audio of {data.path.name}", crashed)
    known |= zip(todo, inspections, strict=True)
    for utt_id in everything:
        inspection = known[utt_id]
        if inspection.reason:
            found.append((utt_id, inspection.reason, "error", inspection.detail))
            continue
        found += [(utt_id, kind, "warning", message) for kind, message in _doubts(data, utt_id, inspection)]
        where = f"{data.path}: {utt_id}"
        first = seen.setdefault(inspection.digest, where)
        if first != where:
            found.append((utt_id, "same_audio", "warning", f"the same audio as {first}; keep one of them"))
    lines = tables.line_numbers(data.path / table, {utt_id for utt_id, *_ in found})
    problems += [
        Problem(kind, level, table, lines.get(utt), f"{utt}: {message}") for utt, kind, level, message in found
    ]


def _doubts(data: DataDir, utt_id: str, inspection: Inspection) -> Iterable[tuple[str, str]]:
    if inspection.clipped:
        yield "clipping", "clipped: more than a thousandth of the samples are at full scale"
    declared = data.utt2dur.get(utt_id, inspection.duration)
    if abs(declared - inspection.duration) > _DURATION_TOLERANCE:
        yield "duration", f"utt2dur says {declared} seconds, the audio has {inspection.duration:.6f}"
