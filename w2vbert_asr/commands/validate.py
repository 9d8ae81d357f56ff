"""`w2vbert validate`: every defect of some data directories, at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.data.validate import validate
from w2vbert_asr.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Config:
    dirs: tuple[Path, ...]
    no_audio: bool = False  # do not open the audio
    anew: bool = False  # read audio that has not changed since `prepare` read it, too
    strict: bool = False  # warnings are errors
    num_jobs: int = 0  # processes; 0: one a core

    def problems(self) -> list[str]:
        found = [] if self.dirs else ["dirs: name at least one data directory"]
        return found + ([f"num_jobs: expected 0 or more, found {self.num_jobs}"] if self.num_jobs < 0 else [])


def run(config: Config) -> dict[str, object]:
    """Print the report; DataError if there was an error in any directory."""
    seen: dict[bytes, str] = {}
    results: dict[str, object] = {}
    bad: list[str] = []
    for path in config.dirs:
        problems = validate(path, not config.no_audio, config.strict, config.num_jobs, seen, config.anew)
        counts = Counter(problem.severity for problem in problems)
        for problem in problems:
            print(f"{path}: {problem.severity}: {problem}")
        summary = ", ".join(f"{count} {severity}(s)" for severity, count in sorted(counts.items()))
        print(f"{path}: {'not valid' if counts['error'] else 'valid'}{f' ({summary})' if summary else ''}")
        results[str(path)] = {name: counts[name] for name in ("error", "warning", "note")}
        if counts["error"]:
            bad.append(f"{path}: {counts['error']} error(s)")
    if bad:
        raise DataError(
            f"{'; '.join(bad)}, listed above; mend them, or `w2vbert fix DIR --out NEW` leaves out what is bad"
        )
    return results
