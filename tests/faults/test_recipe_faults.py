"""FAULTS.md A08, A09, D18, D19, K01, K02, S03-S05, S07, T09, X03, as a user meets them: by the command line."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.training.runs import call
from tools import soak
from w2vbert_asr.cli import main
from w2vbert_asr.data import kaldi_dir
from w2vbert_asr.data.corpus import Corpus, DataConfig
from w2vbert_asr.data.dataset import TrainLoader
from w2vbert_asr.data.files import sha256
from w2vbert_asr.errors import ConfigError

Says = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> soak.Toy:
    toy = soak.make_toy(tmp_path_factory.mktemp("toy"))
    assert main(toy.line("pretrain", toy.root / "pre", "--max-steps", 3)) == 0
    assert main(toy.line("finetune", toy.root / "asr", "--max-steps", 3)) == 0
    for exp in ("pre", "asr"):
        line = ["average", "--exp", toy.root / exp, "--num", 1, "--out", toy.root / exp / "model"]
        assert exp == "pre" or main([str(part) for part in line]) == 0
    return toy


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Says:
    """Run a command line; its exit code and what it said."""

    def run(*argv: object) -> tuple[int, str]:
        capsys.readouterr()
        caplog.clear()
        caplog.set_level("INFO")
        code = main([str(argument) for argument in argv])
        said = capsys.readouterr()
        return code, said.out + said.err + caplog.text

    return run


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def make_data(root: Path, seconds: dict[str, float]) -> Path:
    rng = np.random.default_rng(0)
    for utt_id, duration in seconds.items():
        soundfile.write(root / f"{utt_id}.wav", rng.normal(0, 0.1, int(duration * 16000)), 16000)
    kaldi_dir.write(
        root / "data",
        wav_scp={utt_id: str(root / f"{utt_id}.wav") for utt_id in seconds},
        utt2spk=dict.fromkeys(seconds, "s"),
        utt2dur=dict(seconds),
        text=dict.fromkeys(seconds, "A"),
    )
    return root / "data"


def test_a08_a09_too_short_and_too_long_are_dropped_with_the_reason(tmp_path: Path, says: Says) -> None:
    data = make_data(tmp_path, {"blip": 0.005, "good": 1.0, "long": 8.0})
    code, _ = says("fbank", data, "--out", tmp_path / "dump", "--num-jobs", 1, "--set", "max_duration=5")
    rows = (tmp_path / "dump/dropped.tsv").read_text().splitlines()[1:]
    assert code == 0 and [row.split("\t")[:2] for row in rows] == [["blip", "too_short"], ["long", "too_long"]]
    assert set(kaldi_dir.read(tmp_path / "dump").utt2spk) == {"good"}


def test_d18_more_word_pieces_than_the_text_has(tmp_path: Path, says: Says) -> None:
    (tmp_path / "text").write_text("a AB BA\nb BA AB\n")
    code, said = says("tokenizer", "--text", tmp_path / "text", "--vocab-size", 5000, "--out", tmp_path / "bpe")
    assert code == 0 and "5000" in said and (tmp_path / "bpe/bpe.model").is_file()


def test_d19_characters_that_training_has_not_seen(tmp_path: Path, says: Says) -> None:
    (tmp_path / "train").write_text("a AB BA\nb BA AB\n")
    (tmp_path / "dev").write_text("c AXB\nd AB\n")
    line = ["tokenizer", "--text", tmp_path / "train", "--check", tmp_path / "dev", "--vocab-size", 8]
    code, said = says(*line, "--out", tmp_path / "bpe")
    assert code == 0 and "'X' 1 times" in said
    assert (tmp_path / "dev").read_text() == "c AXB\nd AB\n"


def test_k01_a_cut_archive_is_named_and_the_stage_mends_it(toy: soak.Toy, tmp_path: Path, says: Says) -> None:
    dump = tmp_path / "dump"
    again = ["fbank", toy.root / "data", "--out", dump, "--stats", "--num-jobs", 1]
    assert says(*again)[0] == 0
    whole = digests(dump)
    ark = dump / "feats.1.ark"
    ark.write_bytes(ark.read_bytes()[: ark.stat().st_size // 2])
    line = [part.replace(str(toy.root / "dump"), str(dump)) for part in toy.line("pretrain", tmp_path / "exp")]
    code, said = says(*line)
    assert code == 3 and str(ark) in said and "w2vbert fbank" in said
    assert any(utt_id in said for utt_id in kaldi_dir.read(dump).utt2spk)
    assert says(*again)[0] == 0
    assert digests(dump) == whole


@pytest.mark.parametrize("hit", [1, 2])
def test_k02_killed_while_writing_features(toy: soak.Toy, tmp_path: Path, hit: int) -> None:
    data = toy.root / "data"
    line = [str(part) for part in ("fbank", data, "--out", tmp_path / "dump", "--stats", "--num-jobs", 1)]
    code = call(lambda: main(line), fault=f"atomic_dir.before_rename:kill:{hit}")
    assert code == (-signal.SIGKILL if hit == 1 else 0)
    assert (tmp_path / "dump").exists() == (hit == 2)
    assert main(line) == 0
    clean = [str(part) for part in ("fbank", data, "--out", tmp_path / "clean", "--stats", "--num-jobs", 1)]
    assert main(clean) == 0
    names = ("feats.1.ark", "feature_stats.safetensors", "utt2num_frames", "text")
    assert all(sha256(tmp_path / "dump" / name) == sha256(tmp_path / "clean" / name) for name in names)


def test_s03_misspelt_options_and_keys(toy: soak.Toy, tmp_path: Path, says: Says) -> None:
    code, said = says("fbank", "x", "--out", "y", "--sped", "1.0")
    assert code == 2 and "did you mean --speeds" in said
    code, said = says(*toy.line("pretrain", tmp_path / "exp"), "--set", "model.encodr.num_layers=2")
    assert code == 2 and "encoder" in said and not (tmp_path / "exp").exists()
    code, said = says("pretain")
    assert code == 2 and "did you mean pretrain" in said


def test_s04_a_configuration_that_runs_code(tmp_path: Path, says: Says) -> None:
    pwned = tmp_path / "pwned"
    for text in (
        f'trainer: !!python/object/apply:os.system ["touch {pwned}"]',
        "trainer: {seed: 1}\ntrainer: {seed: 2}",
        "a: &a [x]\nb: [*a, *a]",
    ):
        (tmp_path / "run.yaml").write_text(text)
        began = time.process_time()
        code, said = says("pretrain", "--config", tmp_path / "run.yaml", "--train", "x", "--dev", "x", "--out", "y")
        assert code == 2 and "run.yaml" in said and "Traceback" not in said
        assert time.process_time() - began < 1
    assert not pwned.exists()


def forge(folder: Path, weights: bytes) -> None:
    """Put other weights into a model folder, and their size and digest into its manifest."""
    (folder / "model.safetensors").write_bytes(weights)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["model.safetensors"] = {"size": len(weights), "sha256": sha256(folder / "model.safetensors")}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def test_s05_a_pickle_in_place_of_weights(toy: soak.Toy, tmp_path: Path, says: Says) -> None:
    pwned = tmp_path / "pwned"
    evil = b"cos\nmkdir\n(V" + str(pwned).encode() + b"\ntR."  # protocol 0: whoever unpickles it calls os.mkdir
    (tmp_path / "model.pt").write_bytes(evil)
    shutil.copytree(toy.root / "asr/model", tmp_path / "folder")
    forge(tmp_path / "folder", evil)
    for model in (tmp_path / "model.pt", tmp_path / "folder"):
        line = ["decode", "--model", model, "--data", toy.root / "dump", "--out", tmp_path / "hyp"]
        code, said = says(*line)
        assert code in (2, 3) and str(model) in said and "Traceback" not in said
    assert not pwned.exists() and not (tmp_path / "hyp").exists()


@pytest.mark.parametrize("kind", ["million entries", "header of a gigabyte", "wrong shapes"])
def test_s07_weights_made_to_hurt(toy: soak.Toy, tmp_path: Path, says: Says, kind: str) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(toy.root / "asr/model", folder)
    if kind == "header of a gigabyte":
        forge(folder, struct.pack("<Q", 1 << 30) + b"{}")
    else:
        names, size = (
            ([f"w{number}" for number in range(1_000_000)], 0)
            if kind == "million entries"
            else (["encoder.projection.bias"], 2)
        )
        entry = {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}
        header = json.dumps(dict.fromkeys(names, entry)).encode()
        forge(folder, struct.pack("<Q", len(header)) + header + bytes(4 * size))
    began = time.process_time()
    code, said = says("decode", "--model", folder, "--data", toy.root / "dump", "--out", tmp_path / "hyp")
    assert code in (2, 3) and str(folder) in said and "Traceback" not in said
    assert time.process_time() - began < 10 and not (tmp_path / "hyp").exists()


def test_t09_another_encoder_or_other_word_pieces(toy: soak.Toy, tmp_path: Path, says: Says) -> None:
    root = toy.root
    line = toy.line("pretrain", tmp_path / "exp", "--init", root / "pre/model")
    code, said = says(*line, "--set", "model.encoder.block.feed_forward_dim=48")
    assert code == 2 and "encoder.blocks.0.feed_forward1.expand.weight" in said and "do not fit" in said
    (tmp_path / "text").write_text("a AB BAB ABBA BABA\nb BA AB A B BB\n")
    assert says("tokenizer", "--text", tmp_path / "text", "--vocab-size", 12, "--out", tmp_path / "bpe")[0] == 0
    line = toy.line("finetune", tmp_path / "exp", "--init", root / "asr/model")
    line[line.index("--tokenizer") + 1] = str(tmp_path / "bpe/bpe.model")
    code, said = says(*line, "--set", "init_parts=[encoder, decoder, joiner]")
    assert code == 2 and "decoder.embedding.weight" in said and "init_parts=[encoder]" in said
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize("world_size", [2, 3])
def test_x03_no_utterance_is_lost_whatever_the_number_of_ranks(toy: soak.Toy, world_size: int) -> None:
    config = DataConfig(batch_seconds=14.0, min_seconds=0.1)
    corpus = Corpus([toy.root / "dump"], config, None, None)
    ranks = [
        TrainLoader(corpus, config, seed=1, packed=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({loader.batches_per_epoch for loader in ranks}) == 1
    dealt = [utt for loader in ranks for at in range(loader.batches_per_epoch) for utt in loader[at].utt_ids]
    assert sorted(dealt) == sorted(corpus.utt_ids)
    with pytest.raises(ConfigError, match=r"item\(s\) for 99 ranks; raise it"):
        TrainLoader(corpus, config, seed=1, packed=False, rank=0, world_size=99)
