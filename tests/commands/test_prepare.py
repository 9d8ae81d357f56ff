from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.speech import write_audio
from w2vbert_asr.cli import main
from w2vbert_asr.data import kaldi_dir


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    for i, (part, speaker) in enumerate([("dev-clean", "84"), ("dev-clean", "174"), ("train-clean-5", "84")]):
        folder = tmp_path / "LibriSpeech" / part / speaker / str(i)
        ids = [f"{speaker}-{i}-{j:04d}" for j in range(3)]
        for j, utt_id in enumerate(ids):
            write_audio(folder / f"{utt_id}.flac", seed=10 * i + j)
        (folder / f"{speaker}-{i}.trans.txt").write_text("".join(f"{utt_id} TEXT {utt_id}\n" for utt_id in ids))
    return tmp_path / "LibriSpeech"


def run(*arguments: object) -> int:
    return main(["prepare", *map(str, arguments), "--num-jobs", "1"])


def test_librispeech(librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("librispeech", "--source", librispeech, "--out", tmp_path / "data", "--json") == 0
    out = capsys.readouterr().out.splitlines()
    assert json.loads(out[-1]) == {
        "dev-clean": {"utterances": 6, "speakers": 2, "hours": 0.0008, "dropped": {}},
        "train-clean-5": {"utterances": 3, "speakers": 1, "hours": 0.0004, "dropped": {}},
    }
    assert out[0] == f"{tmp_path / 'data' / 'dev-clean'}: 6 utterances, 2 speakers, 0.0008 hours"
    paths = [str(tmp_path / "data" / name) for name in ("dev-clean", "train-clean-5")]
    assert main(["validate", *paths, "--strict", "--num-jobs", "1"]) == 0


def test_sets_of_a_recipe(librispeech: Path, tmp_path: Path) -> None:
    (tmp_path / "prepare.yaml").write_text(
        """
sets:
  train: {parts: [dev-clean, train-clean-5], exclude_speakers: [84]}
  test: {parts: [dev-clean, train-clean-5], speakers: [84], require_text: false}
"""
    )
    config = ("--config", tmp_path / "prepare.yaml")
    assert run("librispeech", "--source", librispeech, "--out", tmp_path / "data", *config) == 0
    train, test = (kaldi_dir.read(tmp_path / "data" / name) for name in ("train", "test"))
    assert set(train.utt2spk.values()) == {"174"} and set(test.utt2spk.values()) == {"84"}
    assert len(test.utt2spk) == 6 and test.text is None and train.text is not None


def test_again_makes_the_same_bytes(librispeech: Path, tmp_path: Path) -> None:
    contents = []
    for num_jobs in (1, 2):
        arguments = ["librispeech", "--source", librispeech, "--out", tmp_path / "data", "--num-jobs", num_jobs]
        assert main(["prepare", *map(str, arguments)]) == 0
        folder = tmp_path / "data" / "dev-clean"
        contents.append({name: (folder / name).read_bytes() for name in os.listdir(folder)})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("corpus", ["librispeech", "librilight", "an4"])
def test_missing_source_names_what_was_expected(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(corpus, "--source", tmp_path / "nowhere", "--out", tmp_path / "data") == 3
    message = capsys.readouterr().err
    assert str(tmp_path / "nowhere") in message and "expected" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["librispech", "--source", "x"], "did you mean librispeech"),
        (["librispeech"], "source: name the folder"),
        (["an4", "--source", "x", "--download"], "download: only for librispeech"),
        (["an4", "--source", "x", "--table", "t"], "table: only for folder"),
        (["an4", "--source", "x", "--set", "sets={a: {parts: [b]}}"], "sets: only for librispeech"),
        (["librispeech", "--source", "x", "--set", "sets={a: {part: [b]}}"], "did you mean sets.a.parts"),
        (["librispeech", "--source", "x", "--set", "parts=[a]", "--set", "sets={a: {parts: [b]}}"], "one of the two"),
        (["librispeech", "--source", "x", "--download"], "no parts named"),
        (["librispeech", "--source", "x", "--download", "--set", "parts=[dev]"], "parts are dev-clean"),
    ],
)
def test_usage(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments, "--out", tmp_path / "data") == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_stage_0_does_not_import_torch() -> None:
    program = (
        "import sys, w2vbert_asr.commands.prepare, w2vbert_asr.commands.validate, w2vbert_asr.commands.fix\n"
        "import w2vbert_asr.cli\n"
        "from w2vbert_asr.corpora import an4, download, librilight, librispeech\n"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
