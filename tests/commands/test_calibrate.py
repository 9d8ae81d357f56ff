"""Calibrating confidences: from a decoding to the next one, and a user's mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.speech import make_dir
from tests.test_documentation import write_tiny_model
from w2vbert_asr.cli import main
from w2vbert_asr.scoring.calibration import fit

# of ten words said with 0.9 five are right, of ten said with 0.3 two
SAID = {"u0": [("a", 0.9)] * 5 + [("x", 0.9)] * 5, "u1": [("a", 0.3)] * 2 + [("x", 0.3)] * 8, "u2": []}


def run(*argv: object) -> int:
    return main([str(argument) for argument in argv])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "hyp").mkdir()
    records = [
        {"utt_id": utt_id, "words": [{"word": word, "confidence": confidence} for word, confidence in words]}
        for utt_id, words in SAID.items()
    ]
    (tmp_path / "hyp/hyp.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "ref").write_text("u0 a a a a a b b b b b\nu1 a a b b b b b b b b\nu2 c\n")
    return tmp_path


def calibrate(work: Path) -> int:
    return run("calibrate", "--ref", work / "ref", "--hyp", work / "hyp", "--out", work / "map.json", "--json")


def test_the_map_is_that_of_the_right_words(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(work) == 0
    found = json.loads((work / "map.json").read_text())
    assert found == {"confidences": pytest.approx([0.3, 0.9]), "correct": pytest.approx([0.2, 0.5])}
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["words"], result["correct"]) == (20, 7) and result["nce"] < 0 < result["calibrated_nce"]


def test_decoding_uses_it(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model", blank_bias=3.0, contrast=6.0)
    data = make_dir(tmp_path)
    line = ["decode", "--model", tmp_path / "model", "--data", data, "--device", "cpu"]
    assert run(*line, "--out", tmp_path / "raw") == 0
    found = fit([0.0, 1.0], [False, True])
    (tmp_path / "map.json").write_text(json.dumps({"confidences": found.confidences, "correct": found.correct}))
    assert run(*line, "--out", tmp_path / "calibrated", "--calibration", tmp_path / "map.json") == 0
    raw, calibrated = (
        [one for text in (tmp_path / name / "hyp.jsonl").read_text().splitlines() for one in json.loads(text)["words"]]
        for name in ("raw", "calibrated")
    )
    assert len(raw) > 4
    for before, after in zip(raw, calibrated, strict=True):
        assert after == before | {"confidence": pytest.approx(0.25 + 0.5 * before["confidence"], abs=1e-4)}


def test_mistakes_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "hyp/hyp.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for content, words in (
        (whole.replace('"confidence"', '"sure"', 1), "line 1: no 'confidence'"),
        (whole + lines[0], "line 4: u0 stands"),
        (whole[:-3], "cut short"),
        ("".join(lines[1:]), "1 utterance(s) missing"),
        (lines[2], "2 utterance(s) missing"),
    ):
        path.write_text(content)
        assert calibrate(work) == 3 and not (work / "map.json").exists()
        assert words in capsys.readouterr().err
    path.write_text(lines[2])
    (work / "ref").write_text("u2 c\n")
    assert calibrate(work) == 3
    assert "every hypothesis is empty" in capsys.readouterr().err
    for content in ("", "{}", '{"confidences": [0.5, 0.1], "correct": [0.1, 0.2]}', '{"confidences": 1, "correct": 1}'):
        (work / "bad.json").write_text(content)
        line = ["transcribe", "--model", work / "model", work / "x.wav", "--calibration", work / "bad.json"]
        assert run(*line) == 3
        assert "`w2vbert calibrate` makes it" in capsys.readouterr().err
