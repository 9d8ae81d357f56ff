"""All verbs in a row on a toy corpus, as a user types them, and what they say to a user's mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from w2vbert_asr import load_model
from w2vbert_asr.cli import main
from w2vbert_asr.data import kaldi_dir

PRETRAIN = """
model:
  encoder: {num_layers: 2, subsampling: {channels: 4}, block: {model_dim: 16, num_heads: 2, feed_forward_dim: 32}}
  contrastive_layers: 1
  quantizer: {num_codes: 16, code_dim: 16}
data: {batch_seconds: 12, crop_seconds: 6}
trainer: {max_steps: 4, save_every: 2, eval_every: 2, log_every: 1, tensorboard: false}
"""
FINETUNE = """
model:
  encoder: {num_layers: 2, subsampling: {channels: 4}, block: {model_dim: 16, num_heads: 2, feed_forward_dim: 32}}
  projection_dim: 16
  decoder: {embedding_dim: 8, hidden_dim: 16, num_layers: 1}
  joiner: {joiner_dim: 16}
data: {batch_seconds: 12}
trainer: {max_steps: 6, save_every: 2, eval_every: 2, log_every: 2, criterion: wer}
"""
SETS = ("train", "dev", "test")


def run(*argv: object) -> None:
    assert main([str(argument) for argument in argv]) == 0, argv


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole pipeline, once."""
    root = tmp_path_factory.mktemp("pipeline")
    (root / "pretrain.yaml").write_text(PRETRAIN)
    (root / "finetune.yaml").write_text(FINETUNE)
    sizes = ("mini.num_train=40", "mini.num_dev=6", "mini.num_test=10")
    run(
        "prepare",
        "mini",
        "--out",
        root / "data",
        "--num-jobs",
        1,
        *(part for size in sizes for part in ("--set", size)),
    )
    run("validate", *(root / "data" / name for name in SETS), "--num-jobs", 1)
    for name in SETS:
        more = ["--stats"] if name == "train" else []
        run("fbank", root / "data" / name, "--out", root / "dump" / name, "--num-jobs", 1, *more)
    run("tokenizer", "--text", root / "data/train/text", "--vocab-size", 40, "--out", root / "data/tokenizer")
    dumps = ["--train", root / "dump/train", "--dev", root / "dump/dev"]
    run("pretrain", "--config", root / "pretrain.yaml", *dumps, "--out", root / "exp/pretrain")
    asr, bpe = root / "exp/asr", root / "data/tokenizer/bpe.model"
    finetune = ["finetune", "--config", root / "finetune.yaml", *dumps, "--tokenizer", bpe, "--out", asr]
    run(*finetune, "--init", root / "exp/pretrain")
    run("average", "--exp", asr, "--num", 2, "--out", asr / "model")
    run("decode", "--model", asr / "model", "--data", root / "dump/test", "--out", asr / "decode/test")
    run("score", "--ref", root / "data/test/text", "--hyp", asr / "decode/test/text", "--out", asr / "decode/test")
    run("report", asr, root / "exp/pretrain")
    return root


def test_features_online_train_and_decode_alike(work: Path, tmp_path: Path) -> None:
    for name in SETS:
        run("fbank", work / "data" / name, "--out", tmp_path / name, "--online", "--stats", "--num-jobs", 1)
        assert not list(tmp_path.glob("*/*.ark"))
    losses = {}
    for name, folder, more in (("dump", work / "dump", []), ("online", tmp_path, ["--set", "data.features=online"])):
        line = ["finetune", "--config", work / "finetune.yaml", "--train", folder / "train", "--dev", folder / "dev"]
        line += ["--tokenizer", work / "data/tokenizer/bpe.model", "--out", tmp_path / f"asr_{name}"]
        run(*line, "--max-steps", 2, *more)
        log = (tmp_path / f"asr_{name}" / "log.jsonl").read_text().splitlines()
        losses[name] = [json.loads(record)["loss"] for record in log]
        run("decode", "--model", tmp_path / "asr_dump", "--data", folder / "test", "--out", tmp_path / f"hyp_{name}")
    assert losses["online"] == pytest.approx(losses["dump"], rel=1e-4)
    assert (tmp_path / "hyp_online/text").read_text() == (tmp_path / "hyp_dump/text").read_text()


def test_every_stage_leaves_what_the_contract_says(work: Path) -> None:
    for name in ("pretrain", "asr"):
        exp = work / "exp" / name
        for file in ("config.yaml", "log.jsonl", "timing.jsonl", "environment.json", "model/MANIFEST.json"):
            assert (exp / file).is_file(), file
    last = work / "exp/asr/checkpoints/step-00000006"
    assert last.is_dir() and (work / "exp/asr/report.html").is_file()
    decode = work / "exp/asr/decode/test"
    for file in ("text", "hyp.jsonl", "ctm", "decode.json", "timing.json"):
        assert (decode / file).is_file(), file
    for file in ("wer.json", "wer_sclite.json", "result.txt", "ref.trn", "hyp.trn"):
        assert (decode / file).is_file(), file
    for file in ("config.yaml", "model.safetensors", "bpe.model", "feature_stats.safetensors", "README.md"):
        assert (work / "exp/asr/model" / file).is_file(), file
    lines = [json.loads(line) for line in (work / "exp/pretrain/log.jsonl").read_text().splitlines()]
    wanted = {
        "loss", "contrastive", "diversity", "masked_prediction", "accuracy", "equal_distractors", "code_perplexity",
        "codes_used", "masked_share",
    }  # fmt: skip
    for split in ("train", "dev"):
        assert all(wanted <= line.keys() for line in lines if line["split"] == split)
    assert {"grad_norm", "lr", "hours"} <= lines[0].keys()
    init = json.loads((work / "exp/asr/init.json").read_text())
    assert init["loaded"] and init["skipped"] and init["fresh"]


def test_a_finished_training_says_so_and_changes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = (work / "exp/pretrain/log.jsonl").read_bytes()
    dumps = ["--train", str(work / "dump/train"), "--dev", str(work / "dump/dev")]
    config = ["--config", str(work / "pretrain.yaml")]
    assert main(["pretrain", *config, *dumps, "--out", str(work / "exp/pretrain")]) == 0
    assert "finished" in capsys.readouterr().err
    assert (work / "exp/pretrain/log.jsonl").read_bytes() == log


def test_hypotheses_are_those_of_every_utterance_and_of_transcribe(work: Path) -> None:
    hypotheses = [json.loads(line) for line in (work / "exp/asr/decode/test/hyp.jsonl").read_text().splitlines()]
    data = kaldi_dir.read(work / "data/test")
    assert [one["utt_id"] for one in hypotheses] == sorted(data.utt2spk)
    recognizer = load_model(work / "exp/asr/model")
    for one in hypotheses[:3]:
        transcript = recognizer.transcribe(data.audio_path(one["utt_id"]))
        assert transcript.text == one["text"]
        assert transcript.score == pytest.approx(one["score"], abs=1e-2)
        assert len(transcript.tokens) == len(transcript.times)


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(8000, 1, "wav"), (44100, 2, "flac"), (22050, 1, "ogg")])
def test_transcribe_takes_any_rate_channels_and_format(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: int, channels: int, suffix: str
) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, size=(rate, channels)).astype(np.float32)
    soundfile.write(tmp_path / f"speech.{suffix}", samples, rate)
    command = ["transcribe", "--model", str(work / "exp/asr/model"), str(tmp_path / f"speech.{suffix}"), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["transcripts"]
    recognizer = load_model(work / "exp/asr/model")
    read, _ = soundfile.read(tmp_path / f"speech.{suffix}", dtype="float32")
    assert found[str(tmp_path / f"speech.{suffix}")]["text"] == recognizer.transcribe(read, sample_rate=rate).text


def test_transcribe_survives_a_clip_without_a_frame(work: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.full(80, 0.1, dtype=np.float32), 16000)
    assert load_model(work / "exp/asr/model").transcribe(tmp_path / "click.wav").text == ""


def test_mistakes_end_in_one_message_and_their_code(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.flac").write_bytes(b"fLaC" + b"\0" * 200)
    (tmp_path / "wrong.yaml").write_text("model:\n  encoder: {num_layer: 3}\n")
    dumps = ["--train", work / "dump/train", "--dev", work / "dump/dev"]
    out, model = ["--out", tmp_path / "out"], ["--model", work / "exp/asr/model"]
    tokenizer = ["--tokenizer", work / "data/tokenizer/bpe.model"]
    cases = [
        (3, "damaged.flac", ["transcribe", *model, tmp_path / "damaged.flac"]),
        (3, "nowhere", ["transcribe", "--model", tmp_path / "nowhere", tmp_path / "damaged.flac"]),
        (2, "fine-tune it", ["transcribe", "--model", work / "exp/pretrain/model", tmp_path / "damaged.flac"]),
        (2, "did you mean model.encoder.num_layers", ["pretrain", "--config", tmp_path / "wrong.yaml", *dumps, *out]),
        (3, "no such data directory", ["pretrain", "--train", tmp_path / "no", "--dev", work / "dump/dev", *out]),
        (3, "feature_stats", ["pretrain", "--train", work / "dump/dev", "--dev", work / "dump/dev", *out]),
        (3, "nothing left", ["finetune", *dumps, *tokenizer, *out, "--set", "data.min_seconds=20"]),
        (3, "bpe.model", ["finetune", *dumps, "--tokenizer", tmp_path / "bpe.model", *out]),
        (2, "did you mean --max-steps", ["pretrain", *dumps, *out, "--max-step", "3"]),
        (2, "unknown verb", ["pretrian"]),
        (
            3,
            "10 utterance(s) missing",
            ["score", "--ref", work / "data/test/text", "--hyp", work / "data/dev/text", *out],
        ),
    ]
    for code, words, argv in cases:
        assert main([str(argument) for argument in argv]) == code, argv
        said = capsys.readouterr().err
        assert words in said and "Traceback" not in said, said
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("checkpoints/*"))


def test_a_damaged_model_folder_is_found(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (work / "exp/asr/model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert main(["transcribe", "--model", str(folder), "x.wav"]) == 3
    assert "model.safetensors: damaged" in capsys.readouterr().err


def run_apart(prelude: str, argv: list[object], environment: dict[str, str], *flags: str) -> None:
    """A verb in a process of its own, after some Python statements."""
    script = f"import os, sys; {prelude}; from w2vbert_asr.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, *flags, "-c", script, *map(str, argv)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_s09_no_home_tight_umask_read_only_package_and_optimized_python(work: Path, tmp_path: Path) -> None:
    """Decoding without HOME, and without the right to write beside the code."""
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    out = tmp_path / "decode"
    argv = ["decode", "--model", work / "exp/asr/model", "--data", work / "dump/test", "--out", out]
    run_apart("os.umask(0o077)", argv, environment, "-O")
    assert (out / "text").read_bytes() == (work / "exp/asr/decode/test/text").read_bytes()


def test_s10_without_torchaudio_and_programs(work: Path, tmp_path: Path) -> None:
    """Nothing of the core recipe needs torchaudio, sox or ffmpeg: here there is none of them."""
    argv = ["fbank", work / "data/dev", "--out", tmp_path / "dump", "--num-jobs", 1, "--speeds", 0.9, 1.0]
    run_apart("sys.modules['torchaudio'] = None", argv, {**os.environ, "PATH": str(tmp_path)})


def test_an_average_is_the_mean_of_the_checkpoints_weights(work: Path) -> None:
    rows = [json.loads(line) for line in (work / "exp/asr/log.jsonl").read_text().splitlines()]
    best = sorted((row["wer"], row["step"]) for row in rows if row["split"] == "dev")[:2]
    folders = [work / "exp/asr/checkpoints" / f"step-{step:08d}" for _, step in best]
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    mean = load_file(work / "exp/asr/model/model.safetensors")
    assert mean.keys() == first.keys()
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, atol=1e-7, rtol=1e-6)
    assert not torch.equal(first["joiner.output.weight"], second["joiner.output.weight"])


def test_who_may_read_one_file_of_a_model_may_read_all(work: Path) -> None:
    assert len({file.stat().st_mode for file in (work / "exp/asr/model").iterdir()}) == 1
