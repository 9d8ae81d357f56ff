"""Audio files of a corpus, by the names that soundfile can read."""

from __future__ import annotations

from pathlib import Path

from w2vbert_asr.errors import DataError

# Lossless formats first: of two files with one stem the earlier is taken.
AUDIO_SUFFIXES = (
    ".flac", ".wav", ".sph", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64", ".opus", ".ogg", ".oga", ".mp3"
)  # fmt: skip


def audio_by_stem(folder: Path) -> dict[str, Path]:
    """stem -> audio file, for the files right in `folder`, in byte order; empty if there is no such folder."""
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        rank = _rank(path)
        if rank is not None and not path.is_dir():
            other = _rank(found[path.stem]) if path.stem in found else None
            if other is None or rank < other:
                found[path.stem] = path
    return found


def require_source(source: Path, inner: str, expected: str) -> Path:
    """The folder of a corpus, `source` or `source/inner`. DataError that says what was expected there."""
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; expected {expected}")
    return source / inner if (source / inner).is_dir() else source


def _rank(path: Path) -> int | None:
    suffix = path.suffix.lower()
    return AUDIO_SUFFIXES.index(suffix) if suffix in AUDIO_SUFFIXES else None
