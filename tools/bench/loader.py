"""How fast batches of pre-training come: from feature archives, and online from WAV, FLAC and Opus files.

    python tools/bench/loader.py [--workers 1] [--minutes 10] [--rounds 3] [--json]

Speech of the mini corpus (extra `mini`), joined to utterances of 12 s. Seconds of audio a second, with as many loader
processes as --workers, one thread each; the first batches, during which they start, are not counted. A training that
needs fewer seconds of audio a second than this never waits for its data.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tools.bench import isolated  # noqa: E402

RATE, SECONDS, WARM = 16000, 12.0, 8
FORMATS = {"wav": {}, "flac": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}


def make(folder: Path, minutes: float) -> dict[str, Path]:
    """Case -> data directory of the same speech."""
    import numpy as np
    import soundfile

    from w2vbert_asr.cli import main as w2vbert
    from w2vbert_asr.corpora.mini import MiniConfig
    from w2vbert_asr.corpora.mini import make as make_mini
    from w2vbert_asr.data import kaldi_dir
    from w2vbert_asr.data.audio import read_audio

    config = MiniConfig(num_train=max(60, round(30 * minutes)))
    make_mini(folder / "mini", seed=1, num_jobs=1, config=config)
    mini = kaldi_dir.read(folder / "mini/train")
    wanted = round(minutes * 60 / SECONDS)
    samples = [read_audio(path) for path in map(Path, mini.wav_scp.values())]
    joined = np.concatenate(samples)
    size = round(SECONDS * RATE)
    speech = [np.roll(joined, -number * size)[:size] for number in range(wanted)]
    found = {}
    for name, options in FORMATS.items():
        (folder / name).mkdir()
        paths = {f"s{n % 8}-u{n:04d}": str(folder / name / f"{n:04d}.{name}") for n in range(wanted)}
        for path, one in zip(paths.values(), speech, strict=True):
            soundfile.write(path, one, RATE, **options)
        found[name] = folder / f"data-{name}"
        kaldi_dir.write(
            found[name],
            wav_scp=paths,
            utt2spk={utt_id: utt_id[:2] for utt_id in paths},
            utt2dur=dict.fromkeys(paths, SECONDS),
            num_samples=dict.fromkeys(paths, size),
        )
    found["archive"] = folder / "dump"
    if w2vbert(["fbank", str(found["wav"]), "--out", str(found["archive"]), "--num-jobs", "1"]):
        raise SystemExit("fbank failed")
    return found


def throughput(data: Path, workers: int) -> dict[str, float]:
    """Seconds of audio a second, over a few hundred batches' worth of 96 s."""
    import torch

    from w2vbert_asr.allocator import keep_freed_memory
    from w2vbert_asr.data.corpus import Corpus, DataConfig
    from w2vbert_asr.data.dataset import TrainLoader

    keep_freed_memory()
    torch.set_num_threads(1)
    features = "dump" if (data / "feats.scp").is_file() else "online"
    config = DataConfig(features=features, batch_seconds=96, crop_seconds=24, num_workers=workers)  # type: ignore[arg-type]
    loader = TrainLoader(Corpus([data], config, None, None), config, seed=1, packed=True)
    batches = loader.iterate(0)
    for _ in islice(batches, WARM):
        pass
    began, frames = time.perf_counter(), 0
    while time.perf_counter() - began < 8.0:
        frames += int(next(batches).feat_lens.sum())
    seconds = time.perf_counter() - began
    batches.close()  # type: ignore[attr-defined]
    return {"audio_seconds_per_second": frames / 100 / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        data, workers = json.loads(options.case)
        print(json.dumps(throughput(Path(data), workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            name: json.dumps([str(data), options.workers]) for name, data in make(Path(folder), options.minutes).items()
        }
        found = isolated.in_turns(__file__, list(cases.values()), options.rounds, threads=1)
    rates: dict[str, Any] = {
        name: isolated.median(found[case], "audio_seconds_per_second") for name, case in cases.items()
    }
    for name, case in cases.items():
        what = f"{rates[name]:10.0f}" if rates[name] else f"  failed: {found[case][-1]['failed']}"
        print(f"{name:8}{what} s of audio a second")
    if options.json:
        print(json.dumps({**rates, "workers": options.workers, **isolated.machine(1)}))


if __name__ == "__main__":
    main()
