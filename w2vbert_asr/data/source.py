"""What an output folder was made from, so that a stage run again knows whether its output is whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from w2vbert_asr.data.files import absolute
from w2vbert_asr.data.kaldi_dir import DataDir
from w2vbert_asr.data.member import file_of
from w2vbert_asr.errors import ConfigError

SOURCE = "source.json"


def input_digest(data: DataDir, settings: Any) -> str:
    """SHA-256 over what a stage makes its output from: its settings, the tables, and the sizes of the audio files."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for utterance in data.utterances():
        digest.update(f"{utterance!r}\n".encode(errors="surrogateescape"))
    for rec_id in sorted(data.wav_scp):
        path = data.audio_path(rec_id)
        file = file_of(path)
        size = file.stat().st_size if file.is_file() else -1
        digest.update(f"{rec_id} {absolute(path)} {size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def would_replace(out: Path, data: Path) -> list[str]:
    """The problem of an output folder that holds the data directory that it is made from."""
    whole, part = out.resolve(), data.resolve()
    if part == whole or whole in part.parents:
        return [f"out: {out} holds the data directory {data} and would replace it; choose another"]
    return []


def write_source(folder: Path, digest: str, summary: dict[str, Any]) -> None:
    """Seal a folder that has all its files: `digest` of the input, the files and their sizes, what the verb reports."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    source = {"digest": digest, "summary": summary, "files": files}
    (folder / SOURCE).write_text(json.dumps(source, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def find_whole(out: Path, digest: str) -> dict[str, Any] | None:
    """The summary of a folder that was made from the same input and still has all its files; else None.

    Raises ConfigError for a folder that no stage has sealed: writing there would delete what is in it.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return None
    if not (out / SOURCE).is_file():
        raise ConfigError(f"--out {out}: a folder that this command did not write; name a new one, or remove it first")
    try:
        source = json.loads((out / SOURCE).read_text(encoding="utf-8"))
        same = source["digest"] == digest
        whole = all((out / name).stat().st_size == size for name, size in source["files"].items())
        summary: dict[str, Any] = source["summary"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged: made anew
    return summary if same and whole else None
