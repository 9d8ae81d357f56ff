"""A mended copy of a data directory: what can be used, and a list of what was left out and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from w2vbert_asr.data import kaldi_dir, tables
from w2vbert_asr.data.audio import audio_info
from w2vbert_asr.data.inspection import Inspection, Piece, crashed, inspect
from w2vbert_asr.data.kaldi_dir import DataDir
from w2vbert_asr.data.parallel import map_parallel
from w2vbert_asr.data.tables import Problem
from w2vbert_asr.data.validate import COMPANIONS, companion_ids, pieces
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.text.normalize import normalize

MAX_OVERRUN = 0.1  # seconds by which a segment may end behind its recording and is trimmed
_IDENTITY = (
    "wav.scp",
    "utt2spk",
    "text",
    "segments",
)  # a rejected line of these costs the utterance, others are remade


def fix(path: Path, out: Path, num_jobs: int = 0, encoding: str = "utf-8") -> dict[str, str]:
    """Write a mended copy of data directory `path` to `out`, with `left_out.tsv`; returns utt_id -> reason left out.

    Kept are utterances with a speaker, readable audio and, where there is a `text`, a transcript. Lengths are measured
    anew, transcripts are normalised, segments that end up to 0.1 s too late are trimmed; features (stage 1) are not
    copied. `encoding` is that of the tables. DataError if nothing is left, or `out` is `path`.
    """
    if out.resolve() == path.resolve():
        raise DataError(f"{out}: the copy would replace the original; choose another --out")
    problems: list[Problem] = []
    data = kaldi_dir.load(path, problems, encoding)
    left_out = _incomplete(data, problems)
    todo = {utt_id: piece for utt_id, piece in pieces(data).items() if utt_id not in left_out}
    inspections = map_parallel(_inspect_trimmed, list(todo.values()), num_jobs, "reading audio", crashed)
    kept: dict[str, Inspection] = {}
    for utt_id, inspection in zip(todo, inspections, strict=True):
        if inspection.reason:
            left_out[utt_id] = f"{inspection.reason}: {inspection.detail}"
        else:
            kept[utt_id] = inspection
    if not kept:
        counts = Counter(reason.split(":")[0] for reason in left_out.values())
        table = summarize([f"{count} {reason}" for reason, count in counts.most_common()])
        raise DataError(f"{path}: nothing left to write; left out:\n{table}")
    _write(out, data, kept, left_out, encoding)
    return left_out


def _incomplete(data: DataDir, problems: list[Problem]) -> dict[str, str]:
    """utt_id -> reason, of every utterance that lacks something or whose line was rejected."""
    cut = bool(data.segments)
    bad = [problem for problem in problems if problem.key and problem.file in _IDENTITY]
    rejected = {problem.key: str(problem) for problem in bad if not (cut and problem.file == "wav.scp")}
    recordings = data.wav_scp.keys() - {problem.key for problem in bad if problem.file == "wav.scp"}
    columns = {
        "utt2spk": data.utt2spk.keys(),
        **({"segments": data.segments.keys()} if cut else {"wav.scp": recordings}),
    }
    if data.text is not None:
        columns["text"] = data.text.keys()
    found: dict[str, str] = {}
    for utt_id in sorted(set[str]().union(rejected, *columns.values())):
        missing = [name for name, ids in columns.items() if utt_id not in ids]
        if utt_id in rejected:
            found[utt_id] = f"rejected: {rejected[utt_id]}"
        elif missing:
            found[utt_id] = f"incomplete: not in {', '.join(missing)}"
        elif cut and data.segments[utt_id].rec_id not in recordings:
            found[utt_id] = f"incomplete: recording {data.segments[utt_id].rec_id} not in wav.scp, or rejected there"
    return found


def _inspect_trimmed(piece: Piece) -> Inspection:
    if piece.end is not None:
        try:
            overrun = piece.end - audio_info(piece.path).duration
        except DataError:
            overrun = 0.0  # inspect says what is wrong
        if 0 < overrun <= MAX_OVERRUN + 1e-6:  # 2.1 - 2.0 is a little more than 0.1
            piece = replace(piece, end=None, num_samples=None)
    return inspect(piece)


def _write(out: Path, data: DataDir, kept: dict[str, Inspection], left_out: dict[str, str], encoding: str) -> None:
    segments = {
        utt_id: kept[utt_id].segment(part.rec_id, part.start)
        for utt_id, part in data.segments.items()
        if utt_id in kept
    }
    recordings = {part.rec_id for part in segments.values()} if segments else kept.keys()
    mended = DataDir(
        path=out,
        wav_scp={rec_id: str(data.audio_path(rec_id).absolute()) for rec_id in recordings},
        segments=segments,
        text=None if data.text is None else {utt_id: normalize(data.text[utt_id]) for utt_id in kept},
        utt2spk={utt_id: data.utt2spk[utt_id] for utt_id in kept},
        utt2dur={utt_id: inspection.duration for utt_id, inspection in kept.items()},
        num_samples={utt_id: inspection.num_samples for utt_id, inspection in kept.items()},
    )
    rows = [("utt_id", "reason"), *sorted(left_out.items())]
    reports = {"left_out.tsv": "".join(f"{utt_id}\t{' '.join(reason.split())}\n" for utt_id, reason in rows)}
    kaldi_dir.write(
        out,
        wav_scp=mended.wav_scp,
        segments=segments or None,
        text=mended.text,
        utt2spk=mended.utt2spk,
        utt2dur=mended.utt2dur,
        num_samples=mended.num_samples,
        extra={**reports, **companions(data, mended, encoding)},
    )


def companions(data: DataDir, mended: DataDir, encoding: str = "utf-8") -> dict[str, str]:
    """Kaldi's other tables, cut down to the ids that are left; one that lacks an id is left out."""
    found = {}
    for name, kind in COMPANIONS.items():
        if (data.path / name).is_file():
            table = tables.read_table(data.path / name, tables.parse_text, [], encoding)
            ids = sorted(companion_ids(mended)[kind])
            if all(one in table for one in ids):
                found[name] = "".join(f"{one} {table[one]}\n" for one in ids)
    return found
