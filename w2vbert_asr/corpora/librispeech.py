"""LibriSpeech: <part>/<speaker>/<chapter>/<speaker>-<chapter>-<nnnn>.flac, with <speaker>-<chapter>.trans.txt beside.

Mini LibriSpeech has the same layout. Any audio format that soundfile reads is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.corpora.audio_files import audio_by_stem, require_source
from w2vbert_asr.corpora.raw import RawUtterance
from w2vbert_asr.data.tables import Problem, parse_text, read_table
from w2vbert_asr.errors import ConfigError, DataError, summarize

EXPECTED = "LibriSpeech's folders <part>/<speaker>/<chapter>/, such as dev-clean/84/121123/; --download fetches them"


@dataclass(frozen=True, kw_only=True)
class LibriSpeechSet:
    """One set to write: some parts of the corpus, or some speakers of them."""

    parts: tuple[str, ...]
    speakers: tuple[str, ...] = ()  # only these; empty: all
    exclude_speakers: tuple[str, ...] = ()
    require_text: bool = True  # false: an unlabelled set, transcripts are not used

    def problems(self) -> list[str]:
        both = sorted(set(self.speakers) & set(self.exclude_speakers))
        found = [] if self.parts else ["parts: name at least one part, such as dev-clean"]
        return found + ([f"exclude_speakers: {', '.join(both)} also in speakers"] if both else [])


def read(source: Path, sets: Mapping[str, LibriSpeechSet] | None = None) -> dict[str, list[RawUtterance]]:
    """Set name -> utterances; without `sets` every part found is a set of its own name.

    Transcripts without audio are among them, so that the writer lists them. DataError where a part or a speaker that is
    asked for is missing, or a set that needs text has none.
    """
    root = require_source(source, "LibriSpeech", EXPECTED)
    sets = sets or {part: LibriSpeechSet(parts=(part,)) for part in _parts(root)}
    if not sets:
        raise DataError(f"{root}: no part of LibriSpeech; expected {EXPECTED}")
    names = sorted({part for chosen in sets.values() for part in chosen.parts})
    missing = [part for part in names if not (root / part).is_dir()]
    if missing:
        found = ", ".join(_parts(root)) or "none"
        raise DataError(f"{root}: no {', '.join(missing)} (found: {found}); expected {EXPECTED}")
    parts = {part: _read_part(root / part) for part in names}
    return {name: _select(name, chosen, parts) for name, chosen in sets.items()}


def _parts(root: Path) -> list[str]:
    """Folders that hold <speaker>/<chapter>/, both of them numbers."""
    return sorted({path.parent.parent.name for path in root.glob("*/*/*") if _is_chapter(path)})


def _is_chapter(path: Path) -> bool:
    return path.name.isdecimal() and path.parent.name.isdecimal() and path.is_dir()


def _read_part(part: Path) -> list[RawUtterance]:
    found = []
    problems: list[Problem] = []
    for chapter in sorted(path for path in part.glob("*/*") if _is_chapter(path)):
        audio = audio_by_stem(chapter)
        texts: dict[str, str] = {}
        for path in sorted(chapter.glob("*.trans.txt")):
            texts.update(read_table(path, parse_text, problems))
        for utt_id in sorted(audio.keys() | texts.keys()):
            path = audio.get(utt_id, chapter / f"{utt_id}.flac")
            found.append(RawUtterance(utt_id, chapter.parent.name, path, texts.get(utt_id)))
    twice = [str(problem) for problem in problems if problem.kind == "duplicate"]
    if twice:
        raise DataError(f"{part}: transcripts more than once:\n{summarize(twice)}")
    for problem in problems:
        print(f"{part}: {problem.severity}: {problem}", file=sys.stderr)
    return found


def _select(name: str, chosen: LibriSpeechSet, parts: Mapping[str, list[RawUtterance]]) -> list[RawUtterance]:
    utterances = [raw for part in chosen.parts for raw in parts[part]]
    unknown = set(chosen.speakers) - {raw.speaker for raw in utterances}
    if unknown:
        raise ConfigError(f"sets.{name}.speakers: {', '.join(sorted(unknown))} not in {', '.join(chosen.parts)}")
    kept = [
        raw
        for raw in utterances
        if (not chosen.speakers or raw.speaker in chosen.speakers) and raw.speaker not in chosen.exclude_speakers
    ]
    if not chosen.require_text:
        return [RawUtterance(raw.utt_id, raw.speaker, raw.audio, None) for raw in kept]
    if kept and all(raw.text is None for raw in kept):
        raise DataError(f"set {name}: no transcript of {len(kept)} utterances; expected *.trans.txt beside the audio")
    return kept
