"""`w2vbert transcribe`: audio files to text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from w2vbert_asr.commands.calibrate import read_calibration
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.recognizer import load_model
from w2vbert_asr.search import SearchConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """files: of any format, rate and channel count that soundfile reads. max_seconds: a longer recording is cut.

    calibration: of confidences, a file of `w2vbert calibrate`. lm, lodr: as in `decode`.
    """

    model: Path
    files: tuple[Path, ...]
    lm: Path | None = None
    lodr: Path | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    device: str = "auto"
    max_seconds: float = 30.0
    calibration: Path | None = None

    def problems(self) -> list[str]:
        fine = self.max_seconds >= 1
        return [] if fine else [f"max_seconds: expected at least 1, found {self.max_seconds}; 30 is usual"]


def run(config: Config) -> dict[str, object]:
    """Print a line a file: the text, after the file name where there are several; unusable files are named last."""
    calibration = read_calibration(config.calibration) if config.calibration else None
    recognizer = load_model(config.model, config.device, config.search, calibration, config.lm, config.lodr)
    found: dict[str, object] = {}
    failed: list[str] = []
    for file in config.files:
        try:
            transcript = recognizer.transcribe(file, max_seconds=config.max_seconds)
        except DataError as error:
            failed.append(str(error))
            continue
        found[str(file)] = dataclasses.asdict(transcript)
        print(f"{file}\t{transcript.text}" if len(config.files) > 1 else transcript.text, flush=True)
    if failed:
        raise DataError(f"{len(failed)} of {len(config.files)} files could not be transcribed:\n{summarize(failed)}")
    return {"transcripts": found}
