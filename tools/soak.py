#!/usr/bin/env python
"""Load and endurance: kills, damage, preemption, full disks, leaks and order, on toy models of the real commands.

    tools/soak.py                      everything, long
    tools/soak.py kills --count 20     one of: kills points decode stages corruption validator preemption disk
                                       leak order; a manifest of a million lines: tools/bench/scale.py

Each prints what it did and ends with exit code 1 at the first thing that is not as it must be. The tests run the same
functions with small counts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.runs import (  # noqa: E402
    CHECKPOINT_POINTS,
    Child,
    differences,
    finish,
    start,
    start_ranks,
    steps_of,
    usable,
)
from w2vbert_asr.cli import main as w2vbert  # noqa: E402
from w2vbert_asr.data import kaldi_dir  # noqa: E402
from w2vbert_asr.training import checkpoint  # noqa: E402

ENCODER = "{num_layers: 2, subsampling: {channels: 4}, block: {model_dim: 16, num_heads: 2, feed_forward_dim: 32}}"
TRAINER = "{max_steps: 24, save_every: 3, eval_every: 8, log_every: 2, keep: 2, tensorboard: false}"
PRETRAIN = f"""
model:
  encoder: {ENCODER}
  contrastive_layers: 1
  quantizer: {{num_codes: 16, code_dim: 16, input_norm: batch}}
data: {{batch_seconds: 12, crop_seconds: 2, min_seconds: 1}}
trainer: {TRAINER}
"""
FINETUNE = f"""
model:
  encoder: {ENCODER}
  projection_dim: 16
  projection_dropout: 0.1
  decoder: {{embedding_dim: 8, hidden_dim: 16, num_layers: 1, dropout: 0.2}}
  joiner: {{joiner_dim: 16}}
  ctc_weight: 0.5
data: {{batch_seconds: 14}}
trainer: {TRAINER}
"""
MODES = ("pretrain", "finetune", "ranks", "sharded")
LAST_STEP = 24


@dataclass(frozen=True)
class Toy:
    """A toy corpus below `root`, and the training command lines on it."""

    root: Path

    def line(self, mode: str, out: Path, *more: object) -> list[str]:
        """The command line of a mode; `ranks` and `sharded` are a pre-training and a fine-tuning on two ranks."""
        verb = "finetune" if mode in ("finetune", "sharded") else "pretrain"
        line = [verb, "--config", self.root / f"{verb}.yaml", "--out", out, "--device", "cpu"]
        line += ["--train", self.root / "dump", "--dev", self.root / "dump"]
        if mode == "sharded":
            line += ["--set", "trainer.parallel=fsdp"]
        if verb == "finetune":
            line += ["--tokenizer", self.root / "tokenizer/bpe.model"]
        return [str(part) for part in (*line, *more)]

    def start(self, mode: str, out: Path, *more: object, fault: str = "") -> list[Child]:
        """Begin or resume a training in processes of its own."""
        line = self.line(mode, out, *more)
        environment = {"FAULT": fault} if fault else {}

        def child() -> None:
            os._exit(w2vbert(line))

        if mode in ("ranks", "sharded"):
            return start_ranks(lambda _: os._exit(w2vbert(line)), joined=False, environment=environment)
        return [start(child, environment)]

    def run(self, mode: str, out: Path, *more: object, fault: str = "") -> list[int]:
        """The exit codes of a training, one a rank."""
        return [finish(child, timeout=300) for child in self.start(mode, out, *more, fault=fault)]


def make_toy(root: Path) -> Toy:
    """Write the corpus: 12 utterances of three speakers, their features, word pieces and configurations."""
    rng = np.random.default_rng(0)
    wav, speakers, durations, texts = {}, {}, {}, {}
    for number in range(12):
        utt_id = f"s{number % 3}-u{number:02d}"
        samples = rng.normal(0, 0.1, size=int(rng.integers(16_000, 48_000))).astype(np.float32)
        path = root / "audio" / f"s{number % 3}" / f"{utt_id}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, 16000)
        wav[utt_id], speakers[utt_id] = str(path), f"s{number % 3}"
        durations[utt_id], texts[utt_id] = len(samples) / 16000, "AB BA " * (number % 4) + "A"
    kaldi_dir.write(root / "data", wav_scp=wav, utt2spk=speakers, utt2dur=durations, text=texts)
    rows = [f"{utt_id}.wav\t{text}\n" for utt_id, text in texts.items()]
    (root / "audio/transcripts.tsv").write_text("".join(rows))
    (root / "pretrain.yaml").write_text(PRETRAIN)
    (root / "finetune.yaml").write_text(FINETUNE)
    for line in (
        ["fbank", root / "data", "--out", root / "dump", "--stats", "--num-jobs", 1],
        ["tokenizer", "--text", root / "data/text", "--vocab-size", 8, "--out", root / "tokenizer"],
    ):
        check(w2vbert([str(part) for part in line]) == 0, f"{line[0]} failed")
    return Toy(root)


def check(truth: bool, otherwise: str) -> None:
    """Stop with a message unless `truth` holds."""
    if not truth:
        raise AssertionError(otherwise)


def kills(toy: Toy, work: Path, mode: str, count: int, seed: int = 1) -> str:
    """`count` kills -9 at random moments; every run that ends equals the undisturbed one to the byte (L1)."""
    whole = work / f"{mode}-whole"
    began = time.monotonic()
    check(set(toy.run(mode, whole)) == {0}, f"{mode}: the undisturbed run failed")
    length = time.monotonic() - began
    rng = random.Random(seed)
    killed, ended, exp = 0, 0, work / f"{mode}-killed"
    while killed < count:
        children = toy.start(mode, exp)
        time.sleep(rng.uniform(0.0, length))
        for child in rng.sample(children, len(children)):
            child.kill()
        codes = [finish(child, timeout=300) for child in children]
        killed += -signal.SIGKILL in codes
        if usable(exp)[-1:] == [LAST_STEP] and 0 in codes:
            check(not differences(whole, exp), f"{mode}: differs after {killed} kills: {differences(whole, exp)}")
            shutil.rmtree(exp)
            ended += 1
    check(set(toy.run(mode, exp)) == {0}, f"{mode}: cannot go on after {killed} kills")
    check(not differences(whole, exp), f"{mode}: differs after {killed} kills: {differences(whole, exp)}")
    return f"{mode}: {killed} kills, {ended + 1} run(s) that ended, all equal to the byte"


def points(toy: Toy, work: Path, mode: str) -> str:
    """A kill at every named point of writing a checkpoint, each once (L2)."""
    whole = work / f"{mode}-whole"
    if not whole.exists():
        check(set(toy.run(mode, whole)) == {0}, f"{mode}: the undisturbed run failed")
    for point in CHECKPOINT_POINTS:
        exp = work / f"{mode}-{point}"
        codes = toy.run(mode, exp, fault=f"{point}:kill:2")
        check(codes[0] == -signal.SIGKILL, f"{mode}, {point}: not killed but {codes}")
        check(usable(exp) == steps_of(exp) != [], f"{mode}, {point}: a checkpoint that is not whole")
        check(set(toy.run(mode, exp)) == {0}, f"{mode}, {point}: cannot go on")
        check(not differences(whole, exp), f"{mode}, {point}: {differences(whole, exp)}")
    return f"{mode}: killed at each of {len(CHECKPOINT_POINTS)} points, equal to the byte"


def decode(toy: Toy, work: Path, count: int, seed: int = 1) -> str:
    """`count` kills -9 of a decoding with one or two processes, each when some batches more are there (L3)."""
    exp, rng = work / "decode-exp", random.Random(seed)
    check(set(toy.run("finetune", exp)) == {0}, "the training failed")
    whole, out = work / "decode-whole", work / "decode-killed"

    def line(folder: Path, num_jobs: int) -> list[str]:
        line = ["decode", "--model", exp, "--data", toy.root / "dump", "--out", folder]
        return [str(part) for part in (*line, "--num-jobs", num_jobs, "--set", "batch_seconds=1")]

    def finish_and_score(folder: Path) -> dict[str, bytes]:
        check(w2vbert(line(folder, 1)) == 0, f"cannot go on after {killed} kills")
        score = ["score", "--ref", toy.root / "data/text", "--hyp", folder / "text", "--out", folder]
        check(w2vbert([str(part) for part in score]) == 0, "cannot be scored")
        return _contents(folder)

    def results() -> int:
        return sum(path.read_bytes().count(b"\n") for path in out.with_name(f".{out.name}.journal").glob("*.jsonl"))

    killed, ended = 0, 0
    wanted = finish_and_score(whole)
    while killed < count:
        command = [sys.executable, "-m", "w2vbert_asr", *line(out, rng.choice((1, 2)))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        enough = results() + rng.randrange(4)
        while child.poll() is None and results() < enough:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        child.kill()
        code = child.wait()
        check(code in (0, -signal.SIGKILL), f"ends with {code} after {killed} kills")
        killed += code == -signal.SIGKILL
        if code == 0 or killed == count:
            found = finish_and_score(out)
            wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
            check(not wrong, f"{', '.join(wrong)} differ after {killed} kills")
            shutil.rmtree(out)
            ended += 1
    return f"{killed} kills, {ended} decoding(s) that ended, all {len(wanted)} files equal to the byte"


def stages(toy: Toy, work: Path, count: int, seed: int = 1) -> str:
    """`count` kills -9 at random moments in each verb of a recipe; what is there at the end is as after none (L4)."""
    rng = random.Random(seed)
    whole, exp, lengths = work / "stages-whole", work / "stages", {}
    for verb, line in _recipe(toy, exp):
        began = time.monotonic()
        check(finish(start(lambda line=line: os._exit(w2vbert(line))), timeout=300) == 0, f"{verb} failed")
        lengths[verb] = time.monotonic() - began
    exp.rename(whole)  # paths stand in some files
    killed = 0
    for verb, line in _recipe(toy, exp):
        for _ in range(count):
            child = start(lambda line=line: os._exit(w2vbert(line)))
            time.sleep(rng.uniform(0.0, lengths[verb]))
            child.kill()
            killed += finish(child) == -signal.SIGKILL
        check(finish(start(lambda line=line: os._exit(w2vbert(line))), timeout=300) == 0, f"{verb} cannot go on")
    one, other = (_contents(folder) for folder in (whole, exp))
    wrong = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    check(not wrong, f"{killed} kills: {', '.join(wrong[:5])} differ")
    return f"{killed} kills in {len(lengths)} verbs, all {len(one)} files as after none"


def _recipe(toy: Toy, root: Path) -> list[tuple[str, list[str]]]:
    """The verbs of stages 0 to 6, with their arguments, on the toy's audio."""
    data, dump, asr = root / "data", root / "dump", root / "asr"
    text = data / "all/text"
    training = {verb: toy.line(verb, root / name) for verb, name in (("pretrain", "pre"), ("finetune", "asr"))}
    for line in training.values():
        line[line.index("--train") + 1] = line[line.index("--dev") + 1] = str(dump)
    training["finetune"][training["finetune"].index("--tokenizer") + 1] = str(root / "tokenizer/bpe.model")
    training["finetune"] += ["--init", str(root / "pre/model")]
    lines: list[list[object]] = [
        ["prepare", "folder", "--source", toy.root / "audio", "--out", data, "--num-jobs", 1,
         "--set", "folder.set_name=all"],
        ["fbank", data / "all", "--out", dump, "--stats", "--num-jobs", 1],
        ["tokenizer", "--text", text, "--vocab-size", 8, "--out", root / "tokenizer"],
        training["pretrain"],
        training["finetune"],
        ["average", "--exp", asr, "--num", 2, "--out", asr / "model"],
        ["decode", "--model", asr / "model", "--data", dump, "--out", asr / "decode/all"],
        ["score", "--ref", text, "--hyp", asr / "decode/all/text", "--out", asr / "decode/all"],
        ["report", asr],
    ]  # fmt: skip
    return [(str(line[0]), [str(part) for part in line]) for line in lines]


# What has a clock or a process number, or is a drawing of those.
_OWN = ("timing.jsonl", "starts.jsonl", "environment.json", "report.html", "timing.json", ".lock")


def _contents(root: Path) -> dict[str, bytes]:
    """The files below `root`."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in _OWN]
    kept = [path for path in paths if "tensorboard" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def corruption(toy: Toy, work: Path, changes: int, truncations: int, seed: int = 1) -> str:
    """Single-byte changes and truncations of a checkpoint, all found; the one before is used (L5)."""
    exp = work / "corruption"
    check(set(toy.run("pretrain", exp)) == {0}, "the run failed")
    *_, older, newest = checkpoint.list_checkpoints(exp)
    files = sorted(newest.iterdir())
    rng = random.Random(seed)
    for number in range(changes + truncations):
        file = rng.choices(files, [path.stat().st_size for path in files])[0] if number % 2 else rng.choice(files)
        content = file.read_bytes()
        place = rng.randrange(len(content))
        if number < changes:
            other = bytes([content[place] ^ rng.randrange(1, 256)])
            file.write_bytes(content[:place] + other + content[place + 1 :])
        else:
            file.write_bytes(content[:place])
        check(checkpoint.problems(newest) != [], f"{file.name}, byte {place}: not found")
        if number % 50 == 0:
            check(checkpoint.newest(exp) == older, f"{file.name}, byte {place}: not the one before")
        file.write_bytes(content)
    check(checkpoint.problems(newest) == [], "the restored checkpoint is not whole")
    return f"{changes} changed bytes and {truncations} truncations, all found"


DEFECTS: dict[str, Callable[[list[bytes], int], list[bytes]]] = {  # kind -> the lines of a table with it at line `at`
    "drop": lambda lines, at: lines[:at] + lines[at + 1 :],
    "double": lambda lines, at: [*lines, lines[at]],
    "cut": lambda lines, at: [*lines[:at], lines[at].split(b" ")[0] + b"\n", *lines[at + 1 :]],
    "byte": lambda lines, at: [*lines[:at], b"\xff" + lines[at], *lines[at + 1 :]],
    "empty": lambda lines, at: [],
    "blank": lambda lines, at: [*lines[:at], b" \n", *lines[at:]],
}


def validator(toy: Toy, work: Path, count: int, seed: int = 1) -> str:
    """Data directories with one random defect each: refused, or valid if it is none; never a traceback (L8)."""
    folder = work / "validator"
    shutil.copytree(toy.root / "data", folder)
    tables = {name: (folder / name).read_bytes() for name in ("wav.scp", "text", "utt2spk", "utt2dur", "spk2utt")}
    rng = random.Random(seed)
    found = {0: 0, 3: 0}
    for _ in range(count):
        name, kind = rng.choice(list(tables)), rng.choice(list(DEFECTS))
        lines = tables[name].splitlines(keepends=True)
        at = rng.randrange(len(lines))
        (folder / name).write_bytes(b"".join(DEFECTS[kind](lines, at)))
        harmless = kind == "blank" or (kind == "cut" and name == "text")
        with redirect_stdout(io.StringIO()):
            code = w2vbert(["validate", str(folder), "--no-audio", "--num-jobs", "1"])
        check(code == (0 if harmless else 3), f"{name}, line {at + 1}, {kind}: exit code {code}")
        found[code] += 1
        (folder / name).write_bytes(tables[name])
    check(min(found.values()) > count // 20, f"exit codes {found}: too few of one kind to mean anything")
    return f"{count} data directories, {found[3]} with a defect, all refused"


def preemption(toy: Toy, work: Path, cycles: int, seed: int = 1) -> str:
    """SIGTERM again and again: saved and gone within 5 s, and the run ends as if nothing had happened (L6)."""
    steps = ["--max-steps", max(LAST_STEP, 3 * cycles)]
    whole, exp = work / "preempted-whole", work / "preempted"
    check(set(toy.run("pretrain", whole, *steps)) == {0}, "the undisturbed run failed")
    rng, slowest, done = random.Random(seed), 0.0, 0
    while done < cycles:
        before = len((exp / "starts.jsonl").read_text().splitlines()) if exp.exists() else 0
        (child,) = toy.start("pretrain", exp, *steps)
        while not (exp / "starts.jsonl").exists() or len((exp / "starts.jsonl").read_text().splitlines()) == before:
            check(child.is_alive(), "ended before it began")
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.2))
        os.kill(child.pid or 0, signal.SIGTERM)
        began = time.monotonic()
        code = finish(child)
        slowest = max(slowest, time.monotonic() - began)
        check(code in (0, 75), f"exit code {code} in place of 75")
        done += code == 75
        if code == 0:
            check(not differences(whole, exp), f"differs: {differences(whole, exp)}")
            shutil.rmtree(exp)
    check(set(toy.run("pretrain", exp, *steps)) == {0}, "cannot go on")
    check(not differences(whole, exp), f"differs after {done} preemptions: {differences(whole, exp)}")
    check(slowest < 5.0, f"took {slowest:.1f} s to save and leave")
    return f"{done} times SIGTERM, gone after at most {slowest:.2f} s, equal to the byte"


def disk(toy: Toy, work: Path, limits: int) -> str:
    """No room for a file beyond so many bytes, in `limits` steps; then room again (L7)."""
    import resource

    whole, largest = work / "disk-whole", 0
    check(set(toy.run("pretrain", whole)) == {0}, "the undisturbed run failed")
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    codes: dict[int, int] = {}
    for number in range(limits):
        exp = work / f"disk-{number}"
        limit = 1 + largest * number // limits
        line = toy.line("pretrain", exp)

        def child(line: list[str] = line, limit: int = limit) -> None:
            sys.stdout = sys.stderr = io.StringIO()  # what is printed may go to a file, which is not meant
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            os._exit(w2vbert(line))

        code = finish(start(child), timeout=300)
        codes[code] = codes.get(code, 0) + 1
        check(code in (0, 5), f"limit of {limit} bytes: exit code {code} in place of 5")
        check(usable(exp) == steps_of(exp), f"limit of {limit} bytes: a checkpoint that is not whole")
        check(set(toy.run("pretrain", exp)) == {0}, f"limit of {limit} bytes: cannot go on with room again")
        check(not differences(whole, exp), f"limit of {limit} bytes: {differences(whole, exp)}")
    return f"{limits} limits of file size up to {largest} bytes: exit codes {codes}, all went on to equal bytes"


def leak(toy: Toy, work: Path, steps: int) -> str:
    """Memory and open files of a long run with two workers (L10)."""
    (child,) = toy.start("pretrain", work / "leak", "--max-steps", steps, "--save-every", 10**6, "--eval-every", 10**6,
                         "--num-workers", 2)  # fmt: skip
    readings: list[tuple[int, int, int]] = []  # step, kilobytes, open files
    log = work / "leak" / "log.jsonl"
    while child.is_alive():
        time.sleep(0.2)
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
            kilobytes = int(status.partition("VmRSS:")[2].split()[0])
            files = len(os.listdir(f"/proc/{child.pid}/fd"))
            lines = log.read_text().splitlines()
            readings.append((json.loads(lines[-1])["step"], kilobytes, files))
        except (OSError, ValueError, IndexError):
            continue
    check(finish(child) == 0, "the run failed")
    warm = [one for one in readings if one[0] >= steps // 5]
    check(len(warm) > 3, "too short a run to measure")
    step, size, _ = (np.asarray(column, dtype=float) for column in zip(*warm, strict=True))
    slope = np.polyfit(step, size, 1)[0] * 1000 / 1024
    open_files = [files for _, _, files in warm]  # some are open only while a batch is handed over
    third = max(len(open_files) // 3, 1)
    grown = (size[-1] - size[0]) / 1024
    check(slope < 1.0 or grown < 1.0, f"{slope:.2f} MB per 1,000 steps")
    early, late = max(open_files[:third]), min(open_files[-third:])
    check(late <= early, f"at most {early} open files early, at least {late} late")
    return f"{steps} steps: {slope:+.3f} MB per 1,000 steps, at most {max(open_files)} open files"


def order(toy: Toy, work: Path, workers: tuple[int, ...]) -> str:
    """The same bits for any number of workers, and of two runs (L11)."""
    whole = work / "order-whole"
    check(set(toy.run("finetune", whole)) == {0}, "the run failed")
    for number in workers:
        exp = work / f"order-{number}"
        check(set(toy.run("finetune", exp, "--num-workers", number)) == {0}, f"{number} workers: failed")
        bits = [(one / "log.jsonl", one / "checkpoints/step-00000024/model.safetensors") for one in (whole, exp)]
        same = all(first.read_bytes() == second.read_bytes() for first, second in zip(*bits, strict=True))
        check(same, f"{number} workers: another run")
    return f"{', '.join(map(str, workers))} workers: equal to the byte"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="default: all")
    parser.add_argument("--count", type=int, default=20, help="kills of each mode")
    parser.add_argument("--steps", type=int, default=5000, help="of the run that is watched for leaks")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "corpus").mkdir()
        toy = make_toy(work / "corpus")
        parts: Mapping[str, Callable[[], Iterable[str]]] = {
            "kills": lambda: (kills(toy, work, mode, arguments.count) for mode in MODES),
            "points": lambda: (points(toy, work, mode) for mode in ("pretrain", "finetune")),
            "decode": lambda: [decode(toy, work, arguments.count)],
            "stages": lambda: [stages(toy, work, count=3)],
            "corruption": lambda: [corruption(toy, work, changes=1000, truncations=200)],
            "validator": lambda: [validator(toy, work, count=10_000)],
            "preemption": lambda: [preemption(toy, work, cycles=50)],
            "disk": lambda: [disk(toy, work, limits=40)],
            "leak": lambda: [leak(toy, work, arguments.steps)],
            "order": lambda: [order(toy, work, (0, 1, 2, 4))],
        }
        unknown = set(arguments.which) - set(parts)
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(parts)}")
        for name in arguments.which or parts:
            began = time.monotonic()
            try:
                for line in parts[name]():
                    print(f"{name}: {line} ({time.monotonic() - began:.0f} s)", flush=True)
            except AssertionError as error:
                print(f"{name}: {error}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
