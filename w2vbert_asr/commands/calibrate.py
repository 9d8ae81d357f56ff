"""`w2vbert calibrate`: what share of the words of each confidence was right, on a set with references."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.data.tables import Problem, parse_text, read_table
from w2vbert_asr.errors import DataError, summarize
from w2vbert_asr.scoring.alignment import align
from w2vbert_asr.scoring.calibration import Calibration, fit, normalized_cross_entropy
from w2vbert_asr.scoring.error_counts import join


@dataclass(frozen=True, kw_only=True)
class Config:
    """hyp: a folder that `decode` wrote, without a calibration, for a set that is not the one to be judged."""

    ref: Path
    hyp: Path
    out: Path


def run(config: Config) -> dict[str, object]:
    """Write the map that `decode` and `transcribe` take as calibration, and print how well it fits."""
    problems: list[Problem] = []
    refs = read_table(config.ref, parse_text, problems)
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise DataError(f"{config.ref}: {len(errors)} problem(s):\n{summarize(errors)}")
    hyps = _read_words(config.hyp / "hyp.jsonl")
    texts = {utt_id: " ".join(word for word, _ in words) for utt_id, words in hyps.items()}
    join(refs, texts, str(config.ref), str(config.hyp))
    names = sorted(refs)
    steps = align([refs[name].split() for name in names], [[word for word, _ in hyps[name]] for name in names])
    correct = [step == "C" for own in steps for step in own if step != "D"]
    confidences = [confidence for name in names for _, confidence in hyps[name]]
    if not correct:
        raise DataError(f"{config.hyp}: every hypothesis is empty; there is no confidence to calibrate")
    found = fit(confidences, correct)
    with atomic_write(config.out) as file:
        file.write(json.dumps(asdict(found)) + "\n")
    before = normalized_cross_entropy(confidences, correct)
    after = normalized_cross_entropy([found.apply(one) for one in confidences], correct)
    said = ", ".join(
        f"normalized cross entropy {'undefined' if value is None else f'{value:.3f}'} {when}"
        for value, when in ((before, "before"), (after, "after"))
    )
    print(f"{config.out}: {len(correct)} words, {100 * sum(correct) / len(correct):.1f} % right; {said}")
    return {"words": len(correct), "correct": sum(correct), "nce": before, "calibrated_nce": after}


def read_calibration(path: Path) -> Calibration:
    """A map that `run` wrote; DataError for anything else."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        names = ("confidences", "correct")
        found = Calibration(**{name: tuple(float(one) for one in tree[name]) for name in names})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no calibration ({error}); `w2vbert calibrate` makes it") from error
    if found.problems():
        raise DataError(f"{path}: {found.problems()[0]}; `w2vbert calibrate` makes it")
    return found


def _read_words(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Words and confidences by utt_id; every defective line in one DataError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); `w2vbert decode` (stage 5) makes it") from error
    found: dict[str, list[tuple[str, float]]] = {}
    wrong: list[str] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            words = [(str(one["word"]), float(one["confidence"])) for one in record["words"]]
            if str(record["utt_id"]) in found:
                raise ValueError(f"{record['utt_id']} stands on a line before, too")
            found[str(record["utt_id"])] = words
        except KeyError as error:
            wrong.append(f"line {number}: no {error}")
        except (ValueError, TypeError) as error:
            wrong.append(f"line {number}: {error}")
    if wrong or lines[-1]:
        wrong += ["the last line is cut short"] if lines[-1] else []
        raise DataError(f"{path}: decode again; {len(wrong)} line(s) cannot be used:\n{summarize(wrong)}")
    return found
