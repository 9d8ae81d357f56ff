"""What an experiment folder holds, as far as the report shows it. Every file may be missing; a broken one is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vbert_asr.config import read_yaml
from w2vbert_asr.errors import DataError
from w2vbert_asr.scoring.report import AlignedWords, align_words, from_trn
from w2vbert_asr.training.records import LOG, TIMING


@dataclass(frozen=True, kw_only=True)
class Decode:
    """A scored decode folder: `name` is `set`, or `tag/set` for a search that is not the recipe's default."""

    name: str
    wer: Mapping[str, Any]
    settings: Mapping[str, Any]
    aligned: Mapping[str, AlignedWords]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`log` and `timing` are the lines of the records; `config` is plain data and `config_text` its file."""

    name: str
    path: Path
    log: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    decodes: list[Decode]

    def values(self, metric: str, split: str) -> list[tuple[float, float]]:
        """(step, value) of a metric, in the order of the log."""
        return [(line["step"], line[metric]) for line in self.log if line.get("split") == split and metric in line]


def read_experiment(path: Path) -> Experiment:
    """Read an experiment. DataError for a folder that is none, and for broken files in it, with file and line."""
    if not path.is_dir():
        raise DataError(f"{path}: no such experiment folder; `w2vbert pretrain` and `finetune` write them")
    scored = sorted(path.glob("decode*/*/wer.json"))
    if not scored and not (path / LOG).exists():
        raise DataError(f"{path}: neither {LOG} nor decode*/*/wer.json is in it; train or score first")
    config_file = path / "config.yaml"
    return Experiment(
        name=path.resolve().name,
        path=path,
        log=_read_lines(path / LOG),
        timing=_read_lines(path / TIMING, torn=True),
        config=read_yaml(config_file) if config_file.exists() else {},
        config_text=_read_text(config_file),
        environment=_read_json(path / "environment.json"),
        decodes=[_read_decode(file.parent) for file in scored],
    )


def _read_decode(folder: Path) -> Decode:
    tag = folder.parent.name.removeprefix("decode").lstrip("_")
    refs, hyps = from_trn(_read_text(folder / "ref.trn")), from_trn(_read_text(folder / "hyp.trn"))
    if refs.keys() != hyps.keys():
        raise DataError(f"{folder}: ref.trn and hyp.trn have different utterances; score it again")
    return Decode(
        name=f"{tag}/{folder.name}" if tag else folder.name,
        wer=_read_json(folder / "wer.json"),
        settings={**_read_json(folder / "decode.json"), **_read_json(folder / "timing.json")},
        aligned=align_words(refs, hyps),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; it is damaged, make it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    return _parse(text, str(path)) if text else {}


def _read_lines(path: Path, torn: bool = False) -> list[dict[str, Any]]:
    """The objects of a .jsonl file. A last line without its end is still being written and is left out.

    `torn`: other lines may be broken too, where a killed run left them (timing.jsonl is not cut back on resume).
    """
    lines = enumerate(_read_text(path).split("\n")[:-1], 1)
    return [_parse(line, f"{path}:{number}") for number, line in lines if not torn or line.endswith("}")]


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); it is damaged, make it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected a JSON object, found {text[:40]!r}; it is damaged, make it again")
    return found
