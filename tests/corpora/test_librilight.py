from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from tests.data.speech import write_audio
from w2vbert_asr.corpora.librilight import MAX_GAP, cut, read
from w2vbert_asr.corpora.raw import write_sets
from w2vbert_asr.data import kaldi_dir
from w2vbert_asr.errors import DataError


def test_cutting_keeps_all_speech_and_both_limits() -> None:
    rng = random.Random(0)
    for _ in range(300):
        spans, at = [], 0.0
        for _ in range(rng.randrange(1, 30)):
            start = at + rng.choice([0.0, rng.random(), 5 * rng.random()])
            at = start + rng.choice([0.01, rng.random() * 10, rng.random() * 90])
            spans.append((start, at))
        found = cut(spans, 32.0)
        assert all(0 < end - start <= 32.0 + 1e-9 for start, end in found)
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(found))
        for start, end in spans:  # every moment of speech is in a piece
            covered = sum(max(0.0, min(end, b) - max(start, a)) for a, b in found)
            assert covered == pytest.approx(end - start)
        silence = sum(b - a for a, b in found) - sum(b - a for a, b in spans)
        assert silence <= MAX_GAP * len(spans) + 1e-6


def test_short_spans_are_joined() -> None:
    assert cut([(0, 10), (10.5, 20), (20.2, 31), (31.5, 40)], 32.0) == [(0, 31), (31.5, 40)]
    assert cut([(0, 10), (12, 20)], 32.0) == [(0, 10), (12, 20)]
    assert cut([(0, 64)], 32.0) == [(0, 32), (32, 64)]


def test_corpus(tmp_path: Path) -> None:
    book = tmp_path / "small" / "100" / "sea fairies"
    write_audio(book / "01 baum.flac", 6.0)
    (book / "01 baum.json").write_text(json.dumps({"voice_activity": [[0.5, 2.0], [4.0, 9.0], [2.5, 3.0]]}))
    write_audio(book / "02.flac", 5.0, 1)
    write_audio(tmp_path / "medium" / "7" / "book" / "x.flac", 1.5, 2)
    (book / "03.flac").write_text("<html>")
    (book / "04.json").write_text("[]")
    sets = read(tmp_path, max_duration=3.0)
    assert list(sets) == ["medium", "small"]
    found = [(raw.utt_id, raw.start, raw.end) for raw in sets["small"]]
    assert found == [
        ("100-sea_fairies-01_baum-00000", 0.5, 3.0),
        ("100-sea_fairies-01_baum-00001", 4.0, 6.0),
        ("100-sea_fairies-02-00000", 0.0, 2.5),
        ("100-sea_fairies-02-00001", 2.5, 5.0),
        ("100-sea_fairies-03", 0.0, None),
    ]
    assert list(read(tmp_path, parts=("small",))) == ["small"]
    result = write_sets(tmp_path / "out", sets, 1)
    assert result["small"] == {"utterances": 4, "speakers": 1, "hours": 0.0026, "dropped": {"undecodable": 1}}
    assert [utt.duration for utt in kaldi_dir.read(tmp_path / "out" / "small").utterances()] == [2.5, 2.0, 2.5, 2.5]


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"voice_activity": 3}', '{"voice_activity": [[1]]}', '{"voice_activity": [[3, NaN]]}']
)
def test_odd_json_means_even_cuts(tmp_path: Path, text: str) -> None:
    book = tmp_path / "small" / "1" / "b"
    write_audio(book / "a.flac", 4.0)
    (book / "a.json").write_text(text)
    assert [(raw.start, raw.end) for raw in read(tmp_path, max_duration=2.0)["small"]] == [(0.0, 2.0), (2.0, 4.0)]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no part not found .*expected Libri-Light"):
        read(tmp_path)
    write_audio(tmp_path / "small" / "1" / "b" / "a.flac")
    with pytest.raises(DataError, match=r"large not found \(found: small\)"):
        read(tmp_path, parts=("large", "small"))
