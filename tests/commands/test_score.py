"""The verb `score`, from the command line to its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from w2vbert_asr.cli import main

REFS = {"s1-a": "one two three", "s1-b": "four", "s2-a": "five six", "s2-b": ""}
HYPS = {"s1-a": "one too three", "s1-b": "", "s2-a": "five six", "s2-b": "oh"}
FILES = {"ref.trn", "hyp.trn", "result.txt", "wer.json", "wer_sclite.json"}


def write_text(path: Path, transcripts: dict[str, str]) -> Path:
    path.write_text("".join(f"{utt_id} {words}\n" for utt_id, words in transcripts.items()), encoding="utf-8")
    return path


def score(tmp_path: Path, refs: dict[str, str], hyps: dict[str, str], *options: str) -> int:
    ref, hyp = write_text(tmp_path / "ref", refs), write_text(tmp_path / "hyp", hyps)
    return main(["score", "--ref", str(ref), "--hyp", str(hyp), "--out", str(tmp_path / "out"), *options])


def read(tmp_path: Path, name: str = "wer.json") -> dict[str, object]:
    found: dict[str, object] = json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))
    return found


def test_files_and_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "utt2spk").write_text("".join(f"{utt_id} {utt_id[:2]}\n" for utt_id in REFS))
    assert score(tmp_path, REFS, HYPS, "--json") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    result = read(tmp_path)
    assert [result[key] for key in ("ref_words", "errors", "sub", "del", "ins", "utterances")] == [6, 3, 1, 1, 1, 4]
    assert result["wer"] == 50.0
    speakers, interval = result["speakers"], result["interval"]
    assert isinstance(speakers, dict)
    assert isinstance(interval, dict)
    assert {name: counts["wer"] for name, counts in speakers.items()} == {"s1": 50.0, "s2": 50.0}
    assert (interval["over"], interval["units"], interval["low"], interval["high"]) == ("speakers", 2, 50.0, 50.0)
    assert read(tmp_path, "wer_sclite.json")["errors"] == 3
    assert (tmp_path / "out" / "hyp.trn").read_text() == "one too three (s1-a)\n(s1-b)\nfive six (s2-a)\noh (s2-b)\n"
    text = (tmp_path / "out" / "result.txt").read_text()
    assert "REF:  one two three\nHYP:  one too three\nEval:     S" in text
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["1/1/1", "4", "6", "50.00", out[1].split()[4], "1", "1", "1"]
    assert json.loads(out[-1]) == result


def test_without_speakers_the_interval_is_over_utterances(tmp_path: Path) -> None:
    assert score(tmp_path, REFS, HYPS) == 0
    interval = read(tmp_path)["interval"]
    assert isinstance(interval, dict)
    assert (interval["over"], interval["units"]) == ("utterances", 4)
    assert interval["low"] < 50 < interval["high"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    assert score(tmp_path, REFS, HYPS) == 0
    first = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    assert score(tmp_path, dict(reversed(REFS.items())), HYPS) == 0
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == first


def test_second_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = write_text(tmp_path / "hyp2", REFS)
    assert score(tmp_path, REFS, HYPS, "--hyp2", str(second)) == 0
    comparison = read(tmp_path)["comparison"]
    assert isinstance(comparison, dict)
    assert (comparison["wer"], comparison["difference"]) == (0.0, -50.0)
    assert comparison["better_share"] > 0.9
    assert "difference -50.00" in capsys.readouterr().out


def test_only_empty_references(tmp_path: Path) -> None:
    assert score(tmp_path, {"a": "", "b": ""}, {"a": "", "b": "oh"}) == 0
    result = read(tmp_path)
    assert (result["wer"], result["errors"], result["ref_words"], result["interval"]) == (None, 1, 0, None)


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ("a x\nb x\n", "a x\n", ["1 utterance(s) missing from", "hyp:\n  b"]),
        ("a x\n", "a x\nc x\n", ["1 utterance(s) missing from", "ref:\n  c"]),
        ("a x\nb y\n", "a x\nb z\na x\n", ["hyp:3: duplicate id a, first on line 1"]),
        ("a x\na y\n", "a x\nb \nb z\n", ["ref:2: duplicate id a", "hyp:3: duplicate id b"]),
        ("", "", ["no references"]),
        ("a \xff\n", "a x\n", ["ref:1", "0xff"]),
    ],
)
def test_i02_ids_that_do_not_match_are_data_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ref: str, hyp: str, expected: list[str]
) -> None:
    (tmp_path / "ref").write_text(ref, encoding="latin-1")
    (tmp_path / "hyp").write_text(hyp, encoding="latin-1")
    options = ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "hyp"), "--out", str(tmp_path / "out")]
    assert main(["score", *options]) == 3
    message = capsys.readouterr().err
    for part in expected:
        assert part in message
    assert not (tmp_path / "out").exists()


def test_missing_file_and_bad_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(tmp_path / "ref", REFS)
    options = ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert main(["score", *options]) == 3
    assert "nowhere" in capsys.readouterr().err
    assert score(tmp_path, REFS, HYPS, "--set", "confidence=95") == 2
    assert "confidence" in capsys.readouterr().err


def test_starts_without_torch(tmp_path: Path) -> None:
    ref, hyp = write_text(tmp_path / "ref", REFS), write_text(tmp_path / "hyp", HYPS)
    arguments = ["score", "--ref", str(ref), "--hyp", str(hyp), "--out", str(tmp_path / "out")]
    program = (
        "import sys; from w2vbert_asr.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 100 * any(name.split('.')[0] in ('torch', 'matplotlib') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
