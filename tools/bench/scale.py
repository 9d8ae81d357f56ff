"""What a data directory of a million utterances costs: seconds to a batch, memory of a loader process, validation.

    python tools/bench/scale.py --out DIR [--utterances 1000000] [--workers 2] [--steps N] [--json]

Makes the tables of such a directory in DIR (its features are 64 matrices, repeated; there is no audio) and measures in
fresh processes, from their start: the first batch, where the index has yet to be made and where it is there, and a
batch at 90 % of the second epoch, in pre-training (packed), in fine-tuning (whole), and in fine-tuning with a cost of
cells (tokens). CPU seconds are those of the main process: on a busy machine they are what it would take on a quiet one.
Memory is in MB (10^6 bytes): of the main process its peak, of a loader process what it shares with no other
(Private_Dirty in /proc/PID/smaps_rollup) and its share of all it maps (Pss), the larger of the loader processes.
`--steps N` takes N more batches and says how what is not shared grows, from the least of the third to fifth tenths to
the least of the last three: between them it goes up and down by the batches that are under way.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
NUM_MATRICES, UTTS_OF_SPEAKER, UTTS_OF_BOOK = 64, 400, 80
FRAMES = np.concatenate([np.linspace(200, 1650, 56), np.linspace(1700, 3500, 8)]).astype(int)
CASES = {  # name -> (packed, settings of DataConfig)
    "packed": (True, {}),
    "whole": (False, {}),
    "tokens": (False, {"cell_frames": 0.002}),
}


def make(out: Path, count: int) -> Path:
    """The data directory DIR/data-COUNT, with a word-piece model beside its tables."""
    from w2vbert_asr.data.archive import write_feats
    from w2vbert_asr.text import tokenizer

    folder = out / f"data-{count}"
    if folder.is_dir():
        return folder
    partial = out / f".data-{count}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(partial / "feats.1.ark", "wb") as ark:
        offsets = [write_feats(ark, f"m{n:03d}", rng.normal(0, 1, (t, 80)).astype("f4")) for n, t in enumerate(FRAMES)]
    words = ["".join(rng.choice(list("ETAOINSHRDLU"), size=n)) for n in rng.integers(2, 9, size=5000)]
    kind, speakers = rng.integers(0, NUM_MATRICES, size=count), -(-count // UTTS_OF_SPEAKER)
    tables = ("wav.scp", "utt2spk", "utt2dur", "text", "feats.scp", "utt2num_frames", "utt2num_samples", "spk2utt")
    files = {name: open(partial / name, "w", encoding="utf-8") for name in tables}  # noqa: SIM115
    texts: list[str] = []
    for speaker in range(speakers):
        name, ids = f"{10_000 + speaker}", []
        for number in range(speaker * UTTS_OF_SPEAKER, min((speaker + 1) * UTTS_OF_SPEAKER, count)):
            frames = int(FRAMES[kind[number]])
            book, place = divmod(number % UTTS_OF_SPEAKER, UTTS_OF_BOOK)
            utt_id = f"{name}-{100_000 + book}-{place:04d}"
            samples, first = 160 * frames + 240, (number * 7919) % 4000
            text = " ".join(words[first : first + frames // 37])
            if len(texts) < 2000:
                texts.append(text)
            ids.append(utt_id)
            files["wav.scp"].write(f"{utt_id} /corpora/speech/train/{name}/{100_000 + book}/{utt_id}.flac\n")
            files["utt2spk"].write(f"{utt_id} {name}\n")
            files["utt2dur"].write(f"{utt_id} {samples / 16000!r}\n")
            files["text"].write(f"{utt_id} {text}\n")
            files["feats.scp"].write(f"{utt_id} /corpora/speech/dump/train/feats.1.ark:{offsets[kind[number]]}\n")
            files["utt2num_frames"].write(f"{utt_id} {frames}\n")
            files["utt2num_samples"].write(f"{utt_id} {samples}\n")
        files["spk2utt"].write(f"{name} {' '.join(ids)}\n")
    for file in files.values():
        file.close()
    (partial / "bpe.model").write_bytes(tokenizer.train(texts, 1000))
    partial.rename(folder)
    return folder


def measure(folder: Path, case: str, epochs: float, workers: int, steps: int, began: float) -> dict[str, Any]:
    """Seconds since `began` to the batch at `epochs` (1.9: at 90 % of the second epoch), and memory after some more."""
    from w2vbert_asr.allocator import keep_freed_memory
    from w2vbert_asr.data.corpus import Corpus, DataConfig
    from w2vbert_asr.data.dataset import TrainLoader
    from w2vbert_asr.text.tokenizer import Tokenizer

    keep_freed_memory()
    imported = time.time()
    packed, settings = CASES[case]
    config = DataConfig(num_workers=workers, **settings)
    tokenizer = None if packed else Tokenizer(folder / "bpe.model")
    loader = TrainLoader(Corpus([folder], config, None, tokenizer), config, seed=1, packed=packed)
    batches = loader.iterate(int(epochs * loader.batches_per_epoch))
    next(batches)
    found: dict[str, Any] = {
        "seconds": time.time() - began,
        "of_import": imported - began,
        "cpu": time.process_time(),
        "batches_per_epoch": loader.batches_per_epoch,
    }
    for _ in islice(batches, 20 * workers):
        pass
    found |= {"peak": peak(), **memory(children())}
    if steps:
        held = list(held_after(batches, steps))
        for name, values in (("main", [one for one, _ in held]), ("worker", [one for _, one in held])):
            found[f"{name}_growth"] = (min(values[-3:]) - min(values[2:5])) / (0.5 * steps / 1000)
    batches.close()  # type: ignore[attr-defined]
    return found


def held_after(batches: Iterator[Any], steps: int) -> Iterator[tuple[float, float]]:
    """Private_Dirty of this process and of a loader process after each tenth of `steps` more batches."""
    for _ in range(10):
        for _ in islice(batches, steps // 10):
            pass
        yield memory([os.getpid()])["Private_Dirty"], memory(children())["Private_Dirty"]


def children() -> list[int]:
    """Processes that this one has started."""
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def memory(pids: list[int]) -> dict[str, float]:
    """MB by kind, the most that one of some processes has."""
    found = {"Pss": 0.0, "Private_Dirty": 0.0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size = line.split()[:2]
            if name.rstrip(":") in found:
                found[name.rstrip(":")] = max(found[name.rstrip(":")], int(size) * 1024 / 1e6)
    return found


def peak() -> float:
    """MB that this process has held at most."""
    words = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(words.split()[1]) * 1024 / 1e6, 1)


def in_fresh_process(folder: Path, case: str, epochs: float, workers: int, steps: int = 0) -> dict[str, Any]:
    """What `measure` finds there."""
    line = [sys.executable, __file__, "--out", str(folder), "--measure", case, str(epochs), str(workers), str(steps)]
    done = subprocess.run([*line, str(time.time())], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def validate(folder: Path) -> dict[str, Any]:
    """Seconds and peak MB of `w2vbert validate --no-audio`."""
    began = time.time()
    line = [sys.executable, "-m", "w2vbert_asr", "validate", str(folder), "--no-audio"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{folder}: not valid")
    return {
        "seconds": time.time() - began,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024 / 1e6,
    }


def measure_all(folder: Path, workers: int, steps: int) -> dict[str, dict[str, Any]]:
    """What is measured -> figures."""
    found = {"validate --no-audio": validate(folder)}
    for name in ("index", "token_counts"):
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
    found["packed: first batch, index made"] = in_fresh_process(folder, "packed", 0, workers)
    for case in CASES:
        if case == "tokens":
            found["tokens: first batch, counts made"] = in_fresh_process(folder, case, 0, workers)
        found[f"{case}: first batch"] = in_fresh_process(folder, case, 0, workers)
        found[f"{case}: 90 % of the second epoch"] = in_fresh_process(folder, case, 1.9, workers)
    if steps:
        for case in ("packed", "whole"):
            found[f"{case}: over the end of an epoch"] = in_fresh_process(folder, case, 0.999, workers, steps)
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures for reading."""
    columns = ("seconds", "cpu", "peak", "Private_Dirty", "Pss", "main_growth", "worker_growth")
    heads = ("seconds", "CPU s", "peak MB", "worker MB", "worker Pss", "MB/1000", "worker MB/1000")
    lines = ["  ".join(["what".ljust(34), *(f"{head:>10}" for head in heads)])]
    for what, figures in found.items():
        cells = (f"{figures[name]:10.1f}" if name in figures else " " * 10 for name in columns)
        lines.append("  ".join([what.ljust(34), *cells]).rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.measure:
        case, epochs, workers, steps, began = options.measure
        print(json.dumps(measure(options.out, case, float(epochs), int(workers), int(steps), float(began))))
        return
    found = measure_all(make(options.out, options.utterances), options.workers, options.steps)
    print(table(found))
    if options.json:
        print(json.dumps({"utterances": options.utterances, "load": os.getloadavg()[0], "figures": found}))


if __name__ == "__main__":
    main()
