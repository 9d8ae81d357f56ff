"""Counts with weights 4/3/3 against NIST's sclite itself, utterance by utterance."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from w2vbert_asr.scoring.alignment import SCLITE
from w2vbert_asr.scoring.error_counts import count_errors, total
from w2vbert_asr.scoring.report import to_trn

pytestmark = pytest.mark.skipif(shutil.which("sctk") is None, reason="Debian's sctk is not installed")

SCORES = re.compile(rb"id: \((\S+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)")


def sclite(folder: Path, refs: dict[str, str], hyps: dict[str, str], *options: str) -> dict[str, tuple[int, ...]]:
    """utt_id -> (correct, sub, del, ins)."""
    (folder / "ref.trn").write_text(to_trn(refs), encoding="utf-8")
    (folder / "hyp.trn").write_text(to_trn(hyps), encoding="utf-8")
    files = ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
    done = subprocess.run(
        ["sctk", "sclite", "-s", "-e", "utf-8", *options, "-i", "rm", *files, "-f", "0", "-o", "pralign", "stdout"],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    found = {match[1].decode(): tuple(map(int, match.groups()[1:])) for match in SCORES.finditer(done.stdout)}
    assert found.keys() == refs.keys()
    return found


def random_transcripts(number: int, seed: int) -> tuple[dict[str, str], dict[str, str]]:
    rng = random.Random(seed)
    refs, hyps = {}, {}
    for index in range(number):
        words = rng.choices(["ab", "ba", "aab", "b", "çé", "ñandú", "a"], k=rng.choice((2, 3, 7)))
        ref = rng.choices(words, k=rng.randint(0, 12))
        hyp = rng.choices(words, k=rng.randint(0, 12))
        if index % 2:
            hyp = [word for old in ref for word in rng.choice(([old], [old], [], [old, words[0]], [words[1]]))]
        utt_id = f"speaker{index % 7}-{index:06d}"
        refs[utt_id], hyps[utt_id] = " ".join(ref), " ".join(hyp)
    return refs, hyps


def test_i03_words_equal_sclite(tmp_path: Path) -> None:
    refs, hyps = random_transcripts(10_000, seed=1)
    theirs = sclite(tmp_path, refs, hyps)
    ours = count_errors(refs, hyps, SCLITE)
    for utt_id, (correct, sub, del_, ins) in theirs.items():
        found = ours[utt_id]
        assert (found.ref_words, found.sub, found.del_, found.ins) == (correct + sub + del_, sub, del_, ins), utt_id
    summed = total(ours.values())
    assert (summed.sub, summed.del_, summed.ins) == tuple(map(sum, list(zip(*theirs.values(), strict=True))[1:]))
    assert summed != total(count_errors(refs, hyps).values())  # unit costs would not do


def test_characters_equal_sclite(tmp_path: Path) -> None:
    refs, hyps = random_transcripts(2_000, seed=2)
    ours = count_errors(refs, hyps, SCLITE, space="")
    for utt_id, (correct, sub, del_, ins) in sclite(tmp_path, refs, hyps, "-c").items():
        found = ours[utt_id]
        assert (found.ref_chars, found.char_sub) == (correct + sub + del_, sub), utt_id
        assert (found.char_del, found.char_ins) == (del_, ins), utt_id
