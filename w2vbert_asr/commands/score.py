"""`w2vbert score`: WER and CER of hypotheses against references, with intervals and an aligned listing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.data.tables import Problem, parse_text, parse_word, read_table
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.scoring.alignment import SCLITE
from w2vbert_asr.scoring.bootstrap import bootstrap, paired_bootstrap
from w2vbert_asr.scoring.error_counts import ErrorCounts, by_speaker, count_errors, join, total
from w2vbert_asr.scoring.report import align_words, interval_line, result_text, table, to_trn


@dataclass(frozen=True, kw_only=True)
class Config:
    """`utt2spk` is by default the one beside `ref`; without any, the interval is over utterances."""

    ref: Path
    hyp: Path
    out: Path
    utt2spk: Path | None = None
    hyp2: Path | None = None
    seed: int = 0
    resamples: int = 10_000
    confidence: float = 0.95

    def problems(self) -> list[str]:
        found = []
        if self.resamples < 1:
            found.append(f"resamples: expected at least 1, found {self.resamples}")
        if not 0 < self.confidence < 1:
            found.append(f"confidence: expected a number between 0 and 1, found {self.confidence}")
        return found


def run(config: Config) -> dict[str, object]:
    """Write the files of a scored decode folder, `wer.json` last, and print the summary. Returns `wer.json`."""
    refs, hyps, hyps2, utt2spk = _read(config)
    counts = count_errors(refs, hyps)
    # sclite -c looks at the characters of words, without spaces
    sclite = total(count_errors(refs, hyps, SCLITE, space="").values())
    speakers = by_speaker(counts, utt2spk) if utt2spk is not None else {}
    units = speakers or counts
    errors, ref_words = [unit.errors for unit in units.values()], [unit.ref_words for unit in units.values()]
    interval = bootstrap(errors, ref_words, config.seed, config.resamples, config.confidence)
    over = "speakers" if speakers else "utterances"

    totals = {"1/1/1": total(counts.values()), "4/3/3 (sclite)": sclite}
    summary = [table(totals, "costs S/D/I"), interval_line(interval, over)]
    result: dict[str, object] = {
        **totals["1/1/1"].to_dict(),
        "interval": None if interval is None else asdict(interval) | {"over": over},
        "speakers": {speaker: count.to_dict() for speaker, count in speakers.items()},
    }
    if hyps2 is not None:
        result["comparison"], line = _compare(config, refs, hyps2, units, utt2spk if speakers else None)
        summary.append(line)

    files = {
        "ref.trn": to_trn(refs),
        "hyp.trn": to_trn(hyps),
        "result.txt": result_text(align_words(refs, hyps), totals, speakers, interval),
        "wer_sclite.json": _json(sclite.to_dict()),
        "wer.json": _json(result),
    }
    for name, text in files.items():
        with atomic_write(config.out / name) as file:
            file.write(text)
    print("\n".join(summary))
    return result


def _read(config: Config) -> tuple[dict[str, str], dict[str, str], dict[str, str] | None, dict[str, str] | None]:
    """References, hypotheses, those of the second system, speakers; every defect of the files in one DataError."""
    problems: list[str] = []

    def read(path: Path, parse: Callable[[str], str]) -> dict[str, str]:
        found: list[Problem] = []
        records = read_table(path, parse, found)
        problems.extend(str(path.parent / str(problem)) for problem in found if problem.severity == "error")
        return records

    beside = config.ref.parent / "utt2spk"
    speaker_file = config.utt2spk or (beside if beside.exists() else None)
    refs, hyps = read(config.ref, parse_text), read(config.hyp, parse_text)
    hyps2 = read(config.hyp2, parse_text) if config.hyp2 else None
    utt2spk = read(speaker_file, parse_word) if speaker_file else None
    if problems:
        raise DataError(f"{len(problems)} problem(s):\n{summarize(problems)}")
    if not refs:
        raise DataError(f"{config.ref}: no references, nothing to score; give the text of the set that was decoded")
    join(refs, hyps, str(config.ref), str(config.hyp))
    if hyps2 is not None:
        join(refs, hyps2, str(config.ref), str(config.hyp2))
    return refs, hyps, hyps2, utt2spk


def _compare(
    config: Config,
    refs: Mapping[str, str],
    hyps2: Mapping[str, str],
    units: Mapping[str, ErrorCounts],
    utt2spk: Mapping[str, str] | None,
) -> tuple[dict[str, object], str]:
    """The second system against the first, as plain data and in words."""
    counts2 = count_errors(refs, hyps2)
    units2 = by_speaker(counts2, utt2spk) if utt2spk is not None else counts2
    total2 = total(counts2.values())
    compared = paired_bootstrap(
        [unit.errors for unit in units.values()],
        [units2[name].errors for name in units],
        [unit.ref_words for unit in units.values()],
        config.seed,
        config.resamples,
        config.confidence,
    )
    line = f"second system ({config.hyp2}): WER {total2.wer:.2f}"
    if compared is not None:
        low, high = compared.interval.low, compared.interval.high
        line += f", difference {compared.difference:+.2f} ({low:+.2f} to {high:+.2f}), better in "
        line += f"{100 * compared.better_share:.1f} % of the draws"
    return total2.to_dict() | (asdict(compared) if compared is not None else {}), line


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
