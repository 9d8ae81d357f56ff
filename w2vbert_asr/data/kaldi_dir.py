"""A Kaldi data directory: wav.scp, text, utt2spk, utt2dur and their optional companions, joined by utt_id.

Paths in wav.scp are relative to the directory where they are not absolute; `shard-000001.tar:1536` is a recording in a
tar shard. `utt2num_samples` (ours) holds the samples of each utterance at the rate of its file, so that a file that has
lost its end is found when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from w2vbert_asr.data import tables
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.data.tables import Problem, Segment
from w2vbert_asr.errors import DataError, summarize

if TYPE_CHECKING:
    from typing import Required, Unpack

__all__ = ["DataDir", "Problem", "Segment", "Utterance", "load", "raise_errors", "read", "write", "write_tables"]

PARSERS: dict[str, Callable[[str], Any]] = {
    "wav.scp": tables.parse_path,
    "utt2spk": tables.parse_word,
    "utt2dur": tables.parse_seconds,
    "text": tables.parse_text,
    "segments": tables.parse_segment,
    "feats.scp": tables.parse_path,
    "utt2num_frames": tables.parse_count,
    "utt2num_samples": tables.parse_count,
}
REQUIRED = ("wav.scp", "utt2spk", "utt2dur")
INDEX, TOKEN_COUNTS = "index.safetensors", "token_counts.safetensors"  # made of the tables when they are loaded


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is known of one utterance. `start`, `end` and `duration` in seconds; `end` None is the end of the file."""

    utt_id: str
    speaker: str
    rec_id: str
    start: float
    end: float | None
    duration: float
    text: str | None
    feats: str | None = None  # "file.ark:123"
    num_frames: int | None = None
    num_samples: int | None = None  # at the rate of the file


@dataclass(frozen=True)
class DataDir:
    """The tables of a data directory, each in the order of its file."""

    path: Path
    wav_scp: dict[str, str]
    segments: dict[str, Segment]  # empty: every recording is one utterance
    text: dict[str, str] | None
    utt2spk: dict[str, str]
    utt2dur: dict[str, float]
    feats_scp: dict[str, str] | None = None
    utt2num_frames: dict[str, int] | None = None
    num_samples: dict[str, int] | None = None

    @property
    def spk2utt(self) -> dict[str, list[str]]:
        """speaker -> utterances, both in byte order."""
        return _by_speaker(self.utt2spk)

    def audio_path(self, rec_id: str) -> Path:
        """The audio file of a recording; relative paths start at the data directory."""
        return self.path / self.wav_scp[rec_id]

    def utterances(self) -> list[Utterance]:
        """Every utterance, in byte order of utt_id."""
        text, feats = self.text or {}, self.feats_scp or {}
        frames, samples = self.utt2num_frames or {}, self.num_samples or {}
        found = []
        for utt_id in sorted(self.utt2spk):
            piece = self.segments.get(utt_id)
            found.append(
                Utterance(
                    utt_id=utt_id,
                    speaker=self.utt2spk[utt_id],
                    rec_id=piece.rec_id if piece else utt_id,
                    start=piece.start if piece else 0.0,
                    end=piece.end if piece else None,
                    duration=self.utt2dur[utt_id],
                    text=text.get(utt_id),
                    feats=feats.get(utt_id),
                    num_frames=frames.get(utt_id),
                    num_samples=samples.get(utt_id),
                )
            )
        return found


def read(path: Path) -> DataDir:
    """Read a data directory. DataError lists every malformed line (file and line) and every id without its partner."""
    problems: list[Problem] = []
    data = load(Path(path), problems)
    raise_errors(Path(path), problems)
    return data


def raise_errors(path: Path, problems: list[Problem]) -> None:
    """DataError with the errors among `problems`, if there are any."""
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise DataError(
            f"{path}: {len(errors)} problem(s):\n{summarize(errors)}\n"
            f"  `w2vbert validate {path}` lists everything, `w2vbert fix {path} --out NEW` writes a mended copy"
        )


def load(path: Path, problems: list[Problem], encoding: str = "utf-8") -> DataDir:
    """Read what can be read and append every defect of the tables and of their ids to `problems`."""
    if not path.is_dir():
        raise DataError(f"{path}: no such data directory; `w2vbert prepare` (stage 0) writes data directories")
    found: dict[str, dict[str, Any]] = {}
    for name, parse in PARSERS.items():
        if not (path / name).exists() and not (path / name).is_symlink():
            if name in REQUIRED:
                problems.append(Problem("missing_table", "error", name, None, "missing"))
            continue
        try:
            found[name] = tables.read_table(path / name, parse, problems, encoding)
        except DataError as error:
            problems.append(Problem("unreadable", "error", name, None, str(error)))
    _check_ids(found, problems)
    return DataDir(
        path=path,
        wav_scp=found.get("wav.scp", {}),
        segments=found.get("segments", {}),
        text=found.get("text"),
        utt2spk=found.get("utt2spk", {}),
        utt2dur=found.get("utt2dur", {}),
        feats_scp=found.get("feats.scp"),
        utt2num_frames=found.get("utt2num_frames"),
        num_samples=found.get("utt2num_samples"),
    )


def _check_ids(found: dict[str, dict[str, Any]], problems: list[Problem]) -> None:
    """Every table of utterances has the ids of utt2spk, every segment a recording that is there."""
    rejected = {problem.key for problem in problems}  # reported with their lines
    if "utt2spk" not in found or "wav.scp" not in found:
        return
    utts = found["utt2spk"]
    if not utts and not any(problem.severity == "error" for problem in problems):
        problems.append(Problem("empty", "error", "utt2spk", None, "nothing left: there is not one utterance"))
    owners = {name: table for name, table in found.items() if name not in ("wav.scp", "utt2spk")}
    if "segments" in found:
        recordings = {piece.rec_id for piece in found["segments"].values()}
        _compare("recording", recordings, "segments", found["wav.scp"].keys(), "wav.scp", rejected, problems)
        unused = sorted(found["wav.scp"].keys() - recordings - rejected)
        if unused:
            message = f"{len(unused)} recording(s) without a segment: {', '.join(unused[:10])}"
            problems.append(Problem("unused_recording", "warning", "wav.scp", None, message))
    else:
        owners["wav.scp"] = found["wav.scp"]
    for name, table in owners.items():
        _compare("utterance", table.keys(), name, utts.keys(), "utt2spk", rejected, problems)
        _compare("utterance", utts.keys(), "utt2spk", table.keys(), name, rejected, problems)


def _compare(
    what: str, ids: Any, file: str, others: Any, other: str, rejected: set[str], problems: list[Problem]
) -> None:
    if ids <= others:
        return
    missing = sorted(ids - others - rejected)
    if missing:
        message = f"{len(missing)} {what}(s) of {file} not in {other}: {', '.join(missing[:10])}"
        problems.append(Problem("missing_id", "error", other, None, message + (", ..." if len(missing) > 10 else "")))


class Tables(TypedDict, total=False):
    """What can be written, each a mapping from utt_id (wav_scp: from rec_id)."""

    wav_scp: Required[Mapping[str, str]]
    utt2spk: Required[Mapping[str, str]]
    utt2dur: Required[Mapping[str, float]]
    text: Mapping[str, str] | None
    segments: Mapping[str, Segment] | None
    feats_scp: Mapping[str, str] | None
    utt2num_frames: Mapping[str, int] | None
    num_samples: Mapping[str, int] | None


def write(out: Path, *, extra: Mapping[str, str] | None = None, **columns: Unpack[Tables]) -> None:
    """Write a data directory, whole or not at all; `extra` is file name -> contents (reports).

    Replaces an older data directory. DataError if `out` holds anything else, which would be lost.
    """
    if out.is_dir():
        ours = {*PARSERS, *(extra or {}), "spk2utt", "dropped.tsv", "left_out.tsv", "inspected.jsonl"}
        ours |= {name for made in (INDEX, TOKEN_COUNTS) for name in (made, f".{made}.partial", f".{made}.lock")}
        strangers = sorted(entry.name for entry in out.iterdir() if entry.name not in ours or entry.is_dir())
        if strangers:
            raise DataError(f"{out}: holds {', '.join(strangers[:5])}, no table of ours; choose an empty folder")
    with atomic_dir(out) as folder:
        write_tables(folder, **columns)
        for name, contents in (extra or {}).items():
            (folder / name).write_text(contents, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_tables(folder: Path, **columns: Unpack[Tables]) -> None:
    """Write the tables of a data directory, spk2utt among them, into an existing folder, in byte order."""
    utt2spk, segments = columns["utt2spk"], columns.get("segments")
    contents: dict[str, Mapping[str, str] | None] = {
        "wav.scp": columns["wav_scp"],
        "utt2spk": utt2spk,
        "spk2utt": {speaker: " ".join(utts) for speaker, utts in _by_speaker(utt2spk).items()},
        "utt2dur": {utt_id: repr(float(seconds)) for utt_id, seconds in columns["utt2dur"].items()},
        "text": columns.get("text"),
        "feats.scp": columns.get("feats_scp"),
        "utt2num_frames": _counts(columns.get("utt2num_frames")),
        "utt2num_samples": _counts(columns.get("num_samples")),
    }
    if segments:
        pieces = segments.items()
        contents["segments"] = {utt: f"{piece.rec_id} {piece.start!r} {piece.end!r}" for utt, piece in pieces}
    for name, records in contents.items():
        if records is not None:
            tables.write_table(folder / name, records)


def _by_speaker(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    speakers: dict[str, list[str]] = {speaker: [] for speaker in sorted(set(utt2spk.values()))}
    for utt_id in sorted(utt2spk):
        speakers[utt2spk[utt_id]].append(utt_id)
    return speakers


def _counts(table: Mapping[str, int] | None) -> dict[str, str] | None:
    return None if table is None else {utt_id: str(int(count)) for utt_id, count in table.items()}
