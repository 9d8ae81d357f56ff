"""A folder of one's own audio, with or without a table of transcripts.

Speakers come from the table, else from names like those of LibriSpeech (speaker-chapter-number), else from the folder
that holds the audio. What has no partner, a file without a row or a row without a file, stands in the first set
all the same: the writer lists it there as dropped. No torch.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from w2vbert_asr.corpora.audio_files import AUDIO_SUFFIXES
from w2vbert_asr.corpora.holdout import hold_out
from w2vbert_asr.corpora.raw import RawUtterance
from w2vbert_asr.corpora.transcripts import Row, read_rows
from w2vbert_asr.errors import ConfigError, DataError, summarize
from w2vbert_asr.text.normalize import Style, normalize

_TABLE_STEMS, _TABLE_SUFFIXES = ("transcripts", "metadata", "manifest"), (".tsv", ".csv", ".jsonl", ".json")
_PLAIN_FOLDERS = frozenset(("wav", "wavs", "flac", "opus", "mp3", "audio", "clips", "recordings", "data"))
_LIBRISPEECH = re.compile(r"(\d+)-\d+-\d+")


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """What to make of a folder."""

    unlabelled: bool = False  # audio alone; otherwise a table of transcripts is needed
    set_name: str = "train"
    dev_share: float = 0.0  # of the utterances, at most, but at least one speaker (or sentence); 0: no such set
    test_share: float = 0.0
    text_style: Style = "words"  # see text.normalize: lower case without punctuation
    encoding: str = "utf-8"  # of the table

    def problems(self) -> list[str]:
        """What does not fit together."""
        found = []
        if min(self.dev_share, self.test_share) < 0 or self.dev_share + self.test_share >= 1:
            found.append(f"dev_share, test_share: {self.dev_share}, {self.test_share}; a part of 1 must be left")
        if self.set_name in self.shares or not re.fullmatch(r"\w[\w.-]*", self.set_name):
            found.append(f"set_name: {self.set_name!r}; choose a plain name, and not one of a set that is split off")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            found.append(f"encoding: {self.encoding!r} is unknown; such as utf-8, latin-1 or utf-16")
        return found

    @property
    def shares(self) -> dict[str, float]:
        """The sets to split off."""
        return {name: share for name, share in (("dev", self.dev_share), ("test", self.test_share)) if share > 0}


def read(source: Path, table: Path | None = None, config: FolderConfig | None = None) -> dict[str, list[RawUtterance]]:
    """The sets of a folder: `set_name`, and dev and test where a share of them is asked for.

    dev and test are whole speakers; with too few speakers for that, whole sentences. DataError for a folder without
    audio, a table with malformed or contradictory lines (all of them), or a table that fits no file.
    """
    config = config or FolderConfig()
    if config.unlabelled and table is not None:
        raise ConfigError(f"table: {table} is given and the folder is called unlabelled; give one of the two")
    files = find_audio(source)
    if config.unlabelled:
        usable, left_out = [_utterance(source, file, None, config) for file in files], list[RawUtterance]()
    else:
        usable, left_out = _join(source, files, table or find_table(source), config)
    sets = hold_out(usable, config.shares, config.set_name)
    return {**sets, config.set_name: sets[config.set_name] + left_out}


def find_audio(source: Path) -> list[PurePosixPath]:
    """Every audio file below `source`, relative to it, in byte order; links are followed, hidden files are not.

    Of one name with several suffixes only the first is taken, lossless ones first.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give a folder with audio files")
    found: dict[PurePosixPath, PurePosixPath] = {}
    for path in _walk(source):
        if path.suffix.lower() in AUDIO_SUFFIXES and (source / path).is_file():
            found[_bare(path)] = min(path, found.get(_bare(path), path), key=_preference)
    if not found:
        raise DataError(f"{source}: no audio in it; expected files that end in {' '.join(AUDIO_SUFFIXES)}")
    return sorted(found.values(), key=lambda path: os.fsencode(str(path)))


def find_table(source: Path) -> Path:
    """The table of transcripts in a folder: one of the usual names, or else the only .tsv, .csv or .jsonl."""
    usual = [source / f"{stem}{suffix}" for stem in _TABLE_STEMS for suffix in _TABLE_SUFFIXES]
    found = [path for path in usual if path.is_file()][:1]
    found = found or sorted(path for path in source.iterdir() if path.suffix.lower() in _TABLE_SUFFIXES[:3])
    if len(found) != 1:
        what = f"{len(found)} tables ({', '.join(path.name for path in found[:5])})" if found else "no table"
        raise DataError(f"{source}: {what} of transcripts; name it (--table FILE), or ask for audio alone (unlabelled)")
    print(f"{source}: transcripts from {found[0].name}", file=sys.stderr)
    return found[0]


def _walk(source: Path) -> Iterator[PurePosixPath]:
    seen = {os.path.realpath(source)}
    for folder, folders, names in os.walk(source, followlinks=True):
        for name in list(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if name.startswith(".") or real in seen:  # hidden, or a loop of links
                folders.remove(name)
            seen.add(real)
        yield from (PurePosixPath(Path(folder, name).relative_to(source)) for name in names if name[0] != ".")


def _preference(path: PurePosixPath) -> tuple[int, str]:
    return AUDIO_SUFFIXES.index(path.suffix.lower()), path.suffix


def _bare(path: PurePosixPath) -> PurePosixPath:
    return path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path


# --- files and rows ---------------------------------------------------------------------------------------------------


def _join(
    source: Path, files: list[PurePosixPath], table: Path, config: FolderConfig
) -> tuple[list[RawUtterance], list[RawUtterance]]:
    """(files with their text, files without a text and rows without a file)."""
    index = _index(files)
    rows: dict[PurePosixPath, Row] = {}
    missing: dict[PurePosixPath, Row] = {}
    problems: list[str] = []
    for row in read_rows(table, config.encoding):
        found = _find(row.audio, source, table, index)
        if len(found) > 1:
            names = ", ".join(map(str, found[:3]))
            problems.append(f"line {row.line}: {row.audio} may be any of {len(found)} files ({names}); write its path")
            continue
        first = rows.setdefault(found[0], row) if found else missing.setdefault(_inside(row.audio), row)
        if (first.text, first.speaker) != (row.text, row.speaker):
            problems.append(f"line {row.line}: {row.audio} is on line {first.line} with something else; keep one")
    if problems:
        raise DataError(f"{table}: {len(problems)} contradictory line(s); mend them:\n{summarize(problems)}")
    joined = [_utterance(source, file, rows.get(file), config) for file in files]
    usable = [utterance for utterance in joined if utterance.text is not None]
    if not usable:
        example = next(row.audio for row in [*missing.values(), *rows.values()])
        raise DataError(f"{table}: nothing left: no row (such as {example!r}) gives a file (such as {files[0]}) a text")
    left_out = [utterance for utterance in joined if utterance.text is None]
    return usable, left_out + [_utterance(source, path, row, config, "missing-") for path, row in missing.items()]


def _index(files: list[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    """Files by their path in the folder, with a slash before it, and by their name, both without the suffix."""
    index: dict[str, list[PurePosixPath]] = {}
    for file in files:
        index.setdefault(f"/{_nfc(_bare(file))}", []).append(file)
        index.setdefault(_nfc(_bare(file).name), []).append(file)
    return index


def _find(written: str, source: Path, table: Path, index: dict[str, list[PurePosixPath]]) -> list[PurePosixPath]:
    """The files that a row may mean: by the path from the folder or from the table, else by the name.

    The suffix need not agree, so that a table still fits audio that was converted.
    """
    written = str(_bare(PurePosixPath(written.replace("\\", "/"))))
    for start in (source, table.parent):
        found = index.get("/" + _nfc(os.path.relpath(start / written, source)))
        if found:
            return found
    return index.get(_nfc(PurePosixPath(written).name), [])


def _inside(written: str) -> PurePosixPath:
    """Where a missing file would be in the folder, whatever its row says."""
    return PurePosixPath(*(part for part in PurePosixPath(written).parts if part not in ("/", "..")))


def _nfc(path: PurePosixPath | str) -> str:
    """Tables and file systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", str(path))


# --- utterances -------------------------------------------------------------------------------------------------------


def _utterance(
    source: Path, file: PurePosixPath, row: Row | None, config: FolderConfig, mark: str = ""
) -> RawUtterance:
    speaker = _encode(row.speaker if row and row.speaker else _speaker(source, file), keep=".-")
    name = ".".join(_encode(part, keep="-") for part in _bare(file).parts)
    text = normalize(row.text, config.text_style) if row else None
    return RawUtterance(utt_id=f"{speaker}-{mark}{name}", speaker=speaker, audio=source / file, text=text or None)


def _speaker(source: Path, file: PurePosixPath) -> str:
    like_librispeech = _LIBRISPEECH.fullmatch(_bare(file).name)
    if like_librispeech:
        return like_librispeech[1]
    folders = [part for part in file.parent.parts if part.lower() not in _PLAIN_FOLDERS]
    return "-".join(folders) or Path(os.path.abspath(source)).name or "speaker"


def _encode(text: str, keep: str) -> str:
    """Letters, digits, _ and `keep` as they are, everything else as %XX, so that nothing becomes equal."""
    return re.sub(
        rf"[^\w{keep}]",
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")),
        text,
    )
