"""Throughput of pre-training on two ranks with a thread each, against one rank with two threads.

    python tools/bench/ranks.py [--rounds 3] [--steps 24] [--verb pretrain] [--json]

The real command with the AN4 recipe's configuration on features that are made up; audio_seconds_per_second is the
median of the lines of timing.jsonl but the first. The ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tools.bench import isolated, scale  # noqa: E402
from w2vbert_asr.features.stats import FeatureStats  # noqa: E402

UTTERANCES, IN_DEV, MEASURED = 1000, 20, 4


def make(folder: Path) -> Path:
    """A dump directory with a word-piece model beside its tables."""
    import torch

    data = scale.make(folder, UTTERANCES)
    stats = FeatureStats(mean=torch.zeros(80), std=torch.ones(80), count=1)
    stats.save(data / "feature_stats.safetensors")
    scale.make(folder, IN_DEV)
    return data


def throughput(data: Path, verb: str, ranks: int, steps: int) -> dict[str, float]:
    """Seconds of audio a second of a training with 2 / ranks threads a rank."""
    with tempfile.TemporaryDirectory() as out:
        launcher = [sys.executable, "-m"]
        if ranks > 1:
            launcher += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
        line = [*launcher, "w2vbert_asr", verb, "--config", str(ROOT / f"recipes/an4/conf/{verb}.yaml")]
        line += ["--train", str(data), "--dev", str(data.with_name(f"data-{IN_DEV}"))]
        line += ["--out", f"{out}/exp", "--device", "cpu"]
        line += ["--tokenizer", str(data / "bpe.model")] if verb == "finetune" else []
        line += ["--max-steps", str(steps), "--eval-every", "1000000", "--save-every", "1000000"]
        line += ["--set", f"trainer.log_every={steps // MEASURED}", "--set", "trainer.tensorboard=false"]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(2 // ranks))
        subprocess.run(line, cwd=ROOT, check=True, env={**os.environ, **threads})
        lines = [json.loads(one) for one in Path(out, "exp/timing.jsonl").read_text().splitlines()]
    return {"audio_seconds_per_second": statistics.median(one["audio_seconds_per_second"] for one in lines[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--verb", choices=["pretrain", "finetune"], default="pretrain")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        data, verb, ranks, steps = json.loads(options.case)
        print(json.dumps(throughput(Path(data), verb, ranks, steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = str(make(Path(folder)))
        cases = [json.dumps([data, options.verb, ranks, options.steps]) for ranks in (1, 2)]
        one, two = isolated.in_turns(__file__, cases, options.rounds, threads=2, limit=600).values()
    key = "audio_seconds_per_second"
    rates = [isolated.median(found, key) for found in (one, two)]
    if None in rates:
        raise SystemExit(f"failed: {one[-1]} {two[-1]}")
    ratio = isolated.ratio(two, one, key)
    print(
        f"{options.verb}: 1 rank, 2 threads: {rates[0]:.1f} s of audio a second; 2 ranks: {rates[1]:.1f}; {ratio:.2f}"
    )
    if options.json:
        machine = isolated.machine(2)
        print(json.dumps({"verb": options.verb, "one": rates[0], "two": rates[1], "ratio": ratio, **machine}))


if __name__ == "__main__":
    main()
