"""Seconds to score a million words, in jiwer, kaldialign and here, with the same totals.

    python tools/bench/scoring.py [--words 1000000] [--rounds 5] [--json]

References are 12 to 28 words of a vocabulary of 5000, frequent ones often; the hypotheses have one word in ten
substituted, deleted or inserted. `ours` counts the word errors of every utterance as jiwer's `process_words` does;
`score` is all of `w2vbert_asr.scoring.score`, which counts characters, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import isolated

PEERS = ("jiwer", "kaldialign")
Totals = dict[str, int]


def transcripts(words: int) -> tuple[list[str], list[str]]:
    """References of `words` words in all, and hypotheses."""
    import numpy as np

    rng = np.random.default_rng(0)
    vocabulary = np.array(["".join(rng.choice(list("ETAOINSHRDLU"), size=n)) for n in rng.integers(2, 9, size=5000)])
    drawn = vocabulary[np.minimum(rng.zipf(1.2, size=words) - 1, rng.integers(0, 5000, size=words))]
    others = vocabulary[rng.integers(0, 5000, size=words)]
    kinds = rng.choice(4, p=[0.9, 0.06, 0.02, 0.02], size=words)  # as it is, substituted, deleted, inserted
    refs, hyps, start = [], [], 0
    while start < words:
        stop = min(start + int(rng.integers(12, 29)), words)
        hyp = []
        for place in range(start, stop):
            hyp += [[drawn[place]], [others[place]], [], [drawn[place], others[place]]][kinds[place]]
        refs.append(" ".join(drawn[start:stop]))
        hyps.append(" ".join(hyp))
        start = stop
    return refs, hyps


def ours(refs: list[str], hyps: list[str]) -> Totals:
    from w2vbert_asr.scoring.alignment import align

    steps = "".join(align([ref.split() for ref in refs], [hyp.split() for hyp in hyps]))
    return {"sub": steps.count("S"), "del": steps.count("D"), "ins": steps.count("I")}


def score(refs: list[str], hyps: list[str]) -> Totals:
    from w2vbert_asr.scoring import score as score_all

    def by_id(texts: list[str]) -> dict[str, str]:
        return {f"{index:07d}": text for index, text in enumerate(texts)}

    counts = score_all(by_id(refs), by_id(hyps))
    return {"sub": counts.sub, "del": counts.del_, "ins": counts.ins}


def jiwer(refs: list[str], hyps: list[str]) -> Totals:
    import jiwer as peer

    found = peer.process_words(refs, hyps)
    return {"sub": found.substitutions, "del": found.deletions, "ins": found.insertions}


def kaldialign(refs: list[str], hyps: list[str]) -> Totals:
    import kaldialign as peer

    found = [peer.edit_distance(ref.split(), hyp.split()) for ref, hyp in zip(refs, hyps, strict=True)]
    return {key: sum(one[key] for one in found) for key in ("sub", "del", "ins")}


CASES: dict[str, Callable[[list[str], list[str]], Totals]] = {
    "ours": ours,
    "score": score,
    "jiwer": jiwer,
    "kaldialign": kaldialign,
}


def run_case(name: str, words: int) -> dict[str, Any]:
    """Seconds and totals."""
    refs, hyps = transcripts(words)
    count = CASES[name]
    totals = count(refs[:50], hyps[:50])
    measured = isolated.time_and_memory(lambda: totals.update(count(refs, hyps)), 3)
    return {**measured, **totals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(isolated.ROOT))
    if options.case:
        name, words = options.case.split(":")
        print(json.dumps(run_case(name, int(words))))
        return
    cases = {name: f"{name}:{options.words}" for name in CASES}
    found = isolated.in_turns(str(Path(__file__)), list(cases.values()), options.rounds, 1)
    print(f"{'':12}{'seconds':>10}{'extra MB':>10}{'sub':>9}{'del':>9}{'ins':>9}{'against us':>12}")
    for name, case in cases.items():
        rows = found[case]
        if "failed" in rows[-1]:
            print(f"{name:12}failed: {rows[-1]['failed']}")
            continue
        totals = "".join(f"{rows[0][key]:9}" for key in ("sub", "del", "ins"))
        against = isolated.ratio(rows, found[cases["ours"]]) or 0.0
        seconds, extra = isolated.median(rows, "seconds"), isolated.median(rows, "extra_mb")
        print(f"{name:12}{seconds:10.3f}{extra:10.0f}{totals}{against:11.2f}x")
    if options.json:
        same = [[found[cases[name]][0].get(key) for key in ("sub", "del", "ins")] for name in ("ours", "jiwer")]
        print(
            json.dumps(
                {
                    **{name: isolated.median(found[case], "seconds") for name, case in cases.items()},
                    "ratios": {name: isolated.ratio(found[cases[name]], found[cases["ours"]]) for name in PEERS},
                    "same_totals": same[0] == same[1],
                    **isolated.machine(1),
                }
            )
        )


if __name__ == "__main__":
    main()
