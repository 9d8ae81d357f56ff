"""Libri-Light, unlabelled: <part>/<speaker>/<book>/<file>.flac, with <file>.json beside it.

The files are whole chapters. They are cut where nobody speaks, by the `voice_activity` list of the JSON ([[start, end],
...] in seconds): spans with little silence between them are joined up to `max_duration`. A file without such a list is
cut evenly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from w2vbert_asr.corpora.audio_files import audio_by_stem, require_source
from w2vbert_asr.corpora.raw import RawUtterance
from w2vbert_asr.data.audio import audio_info
from w2vbert_asr.data.files import require_regular
from w2vbert_asr.errors import DataError

EXPECTED = "Libri-Light's folders <part>/<speaker>/<book>/, such as small/100/sea_fairies/ with .flac and .json files"
MAX_GAP = 1.0  # seconds of silence within an utterance
_MAX_JSON = 1 << 24  # bytes

Span = tuple[float, float]  # seconds


def read(
    source: Path, parts: tuple[str, ...] = (), max_duration: float = 32.0, min_duration: float = 1.0
) -> dict[str, list[RawUtterance]]:
    """Part -> utterances of `min_duration` to `max_duration` seconds; without `parts` every part found.

    A file that cannot be read is one utterance, so that the writer lists it. DataError where a part is missing.
    """
    root = require_source(source, "librilight", EXPECTED)
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and any(path.glob("*/*/*")))
    missing = sorted(set(parts) - set(found))
    if missing or not found:
        named = ", ".join(missing) or "no part"
        raise DataError(f"{root}: {named} not found (found: {', '.join(found) or 'none'}); expected {EXPECTED}")
    return {part: _read_part(root / part, max_duration, min_duration) for part in dict.fromkeys(parts or found)}


def _read_part(part: Path, max_duration: float, min_duration: float) -> list[RawUtterance]:
    utterances = []
    for book in sorted(path for path in part.glob("*/*") if path.is_dir()):
        speaker = _word(book.parent.name)
        for stem, audio in audio_by_stem(book).items():
            rec_id = f"{speaker}-{_word(book.name)}-{_word(stem)}"
            try:
                duration = audio_info(audio).duration
            except DataError:
                utterances.append(RawUtterance(rec_id, speaker, audio, None))
                continue
            spans = cut(_voice_activity(book / f"{stem}.json", duration) or [(0.0, duration)], max_duration)
            kept = [span for span in spans if span[1] - span[0] >= min_duration]
            width = max(5, len(str(len(kept))))
            for number, (start, end) in enumerate(kept):
                utterances.append(RawUtterance(f"{rec_id}-{number:0{width}}", speaker, audio, None, start, end))
    return utterances


def cut(spans: Iterable[Span], max_duration: float) -> list[Span]:
    """Join spans that are close while the whole is at most `max_duration` long; cut longer ones into equal parts."""
    found: list[Span] = []
    for start, end in spans:
        if found and start - found[-1][1] <= MAX_GAP and end - found[-1][0] <= max_duration:
            found[-1] = (found[-1][0], end)
            continue
        count = math.ceil((end - start) / max_duration)
        found += [(start + (end - start) * i / count, start + (end - start) * (i + 1) / count) for i in range(count)]
    return found


def _voice_activity(path: Path, duration: float) -> list[Span]:
    """Spans in order and within the file; empty where the JSON is missing or has none."""
    try:
        if require_regular(path).st_size > _MAX_JSON:
            return []
        entries = json.loads(path.read_text(encoding="utf-8"))["voice_activity"]
        spans = sorted((max(float(start), 0.0), min(float(end), duration)) for start, end in entries)
    except (DataError, ValueError, TypeError, KeyError):
        return []
    merged: list[Span] = []
    for start, end in spans:
        if end > start and math.isfinite(end - start):
            start = max(start, merged[-1][1]) if merged else start
            if end > start:
                merged.append((start, end))
    return merged


def _word(name: str) -> str:
    return "_".join(name.split())
