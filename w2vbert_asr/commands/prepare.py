"""`w2vbert prepare`: a corpus in its own layout becomes Kaldi data directories (stage 0)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Literal

from w2vbert_asr.corpora import an4, folder, librilight, librispeech, mini
from w2vbert_asr.corpora.download import BASE_URL, download_librispeech
from w2vbert_asr.corpora.folder import FolderConfig
from w2vbert_asr.corpora.librispeech import LibriSpeechSet
from w2vbert_asr.corpora.mini import MiniConfig
from w2vbert_asr.corpora.raw import RawUtterance, SetSummary, write_sets
from w2vbert_asr.errors import ConfigError, DataError

Sets = Mapping[str, Sequence[RawUtterance]]


@dataclass(frozen=True, kw_only=True)
class Config:
    corpus: Literal["librispeech", "librilight", "an4", "folder", "mini"]
    out: Path
    source: Path | None = None  # all but mini
    num_jobs: int = 0  # processes; 0: one a core
    sets: dict[str, LibriSpeechSet] = field(default_factory=dict)  # librispeech; empty: each part is a set
    parts: tuple[str, ...] = ()  # librispeech, librilight: only these; empty: all that are there
    download: bool = False  # librispeech: fetch the parts that are missing
    base_url: str = BASE_URL  # librispeech
    max_duration: float = 32.0  # librilight: seconds of an utterance
    dev_utterances: int = 100  # an4: about so many training utterances, by whole speakers
    table: Path | None = None  # folder: transcripts
    folder: FolderConfig = field(default_factory=FolderConfig)
    seed: int = 0  # mini
    mini: MiniConfig = field(default_factory=MiniConfig)

    def problems(self) -> list[str]:
        found = [f"num_jobs: expected 0 or more, found {self.num_jobs}"] if self.num_jobs < 0 else []
        if self.source is None and self.corpus != "mini":
            found.append(f"source: name the folder of {self.corpus}")
        if self.sets and self.parts:
            found.append("parts: each of sets names its own parts; give one of the two")
        if self.max_duration <= 0 or self.dev_utterances < 1:
            found.append("max_duration and dev_utterances: expected more than 0")
        for entry in fields(self):
            users = _USERS.get(entry.name)
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            if users and self.corpus not in users and getattr(self, entry.name) != default:
                found.append(f"{entry.name}: only for {' and '.join(users)}, not for {self.corpus}")
        return found


_USERS = {
    "sets": ("librispeech",),
    "parts": ("librispeech", "librilight"),
    "download": ("librispeech",),
    "base_url": ("librispeech",),
    "max_duration": ("librilight",),
    "dev_utterances": ("an4",),
    "table": ("folder",),
    "folder": ("folder",),
    "seed": ("mini",),
    "mini": ("mini",),
}


def run(config: Config) -> dict[str, object]:
    """Write `out`/<set>/ and print a line for each; returns its utterances, speakers, hours and dropped by set."""
    if config.corpus == "mini":
        result = mini.make(config.out, config.seed, config.num_jobs, config.mini)
    else:
        if config.source is None:
            raise ConfigError(f"source: name the folder of {config.corpus}")
        sets = READERS[config.corpus](config, config.source)
        if not any(sets.values()):
            raise DataError(f"{config.source}: nothing left: there is no utterance of {config.corpus}")
        result = write_sets(config.out, sets, config.num_jobs)
    for name, summary in result.items():
        print(f"{config.out / name}: {_line(summary)}")
    return dict(result)


def _librispeech(config: Config, source: Path) -> Sets:
    sets = config.sets or {part: LibriSpeechSet(parts=(part,)) for part in config.parts}
    if config.download:
        parts = tuple(dict.fromkeys(part for chosen in sets.values() for part in chosen.parts))
        download_librispeech(parts, source, config.base_url)
    return librispeech.read(source, sets)


READERS: dict[str, Callable[[Config, Path], Sets]] = {
    "librispeech": _librispeech,
    "librilight": lambda config, source: librilight.read(source, config.parts, config.max_duration),
    "an4": lambda config, source: an4.read(source, config.dev_utterances),
    "folder": lambda config, source: folder.read(source, config.table, config.folder),
}


def _line(summary: SetSummary) -> str:
    line = f"{summary['utterances']} utterances, {summary['speakers']} speakers, {summary['hours']} hours"
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary["dropped"].items())
    return f"{line}, dropped: {dropped}" if dropped else line
