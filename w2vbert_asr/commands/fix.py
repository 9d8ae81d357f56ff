"""`w2vbert fix`: a mended copy of a data directory, and a list of what it leaves out."""

from __future__ import annotations

import codecs
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from w2vbert_asr.data.fix import fix


@dataclass(frozen=True, kw_only=True)
class Config:
    dir: Path
    out: Path
    encoding: str = "utf-8"  # of the tables of `dir`; the copy is UTF-8
    num_jobs: int = 0  # processes; 0: one a core

    def problems(self) -> list[str]:
        try:
            found = [] if "\n".encode(self.encoding) else ["encoding: not a text encoding"]
        except LookupError:
            found = [f"encoding: {self.encoding!r} is not known; such as utf-8, latin-1, utf-16"]
        return found + ([f"num_jobs: expected 0 or more, found {self.num_jobs}"] if self.num_jobs < 0 else [])


def run(config: Config) -> dict[str, object]:
    """Write the copy and say how much was left out."""
    left_out = fix(config.dir, config.out, config.num_jobs, codecs.lookup(config.encoding).name)
    counts = Counter(reason.split(":")[0] for reason in left_out.values())
    print(f"{config.out}: {len(left_out)} utterance(s) left out, see {config.out / 'left_out.tsv'}")
    for reason, count in counts.most_common():
        print(f"  {count} {reason}")
    return {"left_out": dict(counts)}
