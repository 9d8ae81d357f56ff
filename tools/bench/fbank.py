"""Seconds that filterbanks take, in lhotse, kaldi-native-fbank and here: the same options, the same audio.

    python tools/bench/fbank.py [--minutes 5] [--rounds 5] [--threads 2] [--json]

The audio is noise with a speech-like envelope, from memory, as one recording and as utterances of 12 s. 80 bins, 25 ms
every 10 ms, Kaldi's steps without dither, whole frames only. `difference`: the largest between our log energies and the
peer's, of all frames.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import isolated

RATE, BINS, UTTERANCE_SECONDS = 16000, 80, 12
PEERS = ("lhotse", "kaldi")
NAMES = {"ours": "this toolkit", "lhotse": "lhotse.Fbank", "kaldi": "kaldi-native-fbank"}


def audio(minutes: float) -> Any:
    """(N,) float32 samples in [-1, 1]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(round(minutes * 60 * RATE), generator=generator)
    envelope = torch.sin(torch.arange(len(samples)) * (2 * torch.pi * 3 / RATE)).square()  # syllables
    return samples * (0.001 + 0.1 * envelope)


def ours() -> Callable[[Any], Any]:
    from w2vbert_asr.features.fbank import fbank

    return lambda samples: fbank(samples, RATE, BINS)


def lhotse() -> Callable[[Any], Any]:
    from lhotse.features.kaldi.extractors import Fbank, FbankConfig

    extractor = Fbank(
        FbankConfig(
            sampling_rate=RATE, num_filters=BINS, dither=0.0, snip_edges=True, low_freq=20.0, high_freq=0.0,
            preemph_coeff=0.97, remove_dc_offset=True, window_type="povey", use_energy=False,
            torchaudio_compatible_mel_scale=True,
        )
    )  # fmt: skip
    return lambda samples: extractor.extract(samples * 32768.0, RATE)


def kaldi() -> Callable[[Any], Any]:
    import kaldi_native_fbank as knf
    import numpy as np

    options = knf.FbankOptions()
    options.frame_opts.samp_freq = RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = BINS
    options.mel_opts.low_freq = 20.0
    options.mel_opts.high_freq = 0.0
    options.energy_floor = 0.0

    def extract(samples: Any) -> Any:
        computer = knf.OnlineFbank(options)
        computer.accept_waveform(RATE, (samples * 32768.0).numpy())
        computer.input_finished()
        return np.stack([computer.get_frame(index) for index in range(computer.num_frames_ready)])

    return extract


def run_case(name: str, minutes: float) -> dict[str, Any]:
    """Seconds for the audio as one recording and as utterances; the largest difference from ours."""
    import torch

    from w2vbert_asr.allocator import keep_freed_memory

    keep_freed_memory()
    extract = {"ours": ours, "lhotse": lhotse, "kaldi": kaldi}[name]()
    samples = audio(minutes)
    utterances = samples.split(UTTERANCE_SECONDS * RATE)
    extract(samples[: 2 * RATE])
    whole = isolated.time_and_memory(lambda: extract(samples), 5)
    split = isolated.time_and_memory(lambda: [extract(one) for one in utterances], 5)
    found = torch.as_tensor(extract(samples))
    difference = float((found - ours()(samples)).abs().max())
    return {**whole, "utterances": split["seconds"], "difference": difference, "frames": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(isolated.ROOT))
    if options.case:
        name, minutes = options.case.split(":")
        print(json.dumps(run_case(name, float(minutes))))
        return
    cases = {name: f"{name}:{options.minutes}" for name in ("ours", *PEERS)}
    found = isolated.in_turns(str(Path(__file__)), list(cases.values()), options.rounds, options.threads)
    print(f"{'':20}{'seconds':>10}{'as 12 s':>10}{'extra MB':>10}{'difference':>12}{'against us':>12}")
    for name, case in cases.items():
        rows = found[case]
        if "failed" in rows[-1]:
            print(f"{NAMES[name]:20}failed: {rows[-1]['failed']}")
            continue
        cells = (isolated.median(rows, "seconds"), isolated.median(rows, "utterances"))
        against = isolated.ratio(rows, found[cases["ours"]]) or 0.0
        print(
            f"{NAMES[name]:20}{cells[0]:10.4f}{cells[1]:10.4f}{isolated.median(rows, 'extra_mb'):10.0f}"
            f"{rows[0]['difference']:12.5f}{against:11.2f}x"
        )
    if options.json:
        print(
            json.dumps(
                {
                    **{name: isolated.median(found[case], "seconds") for name, case in cases.items()},
                    "ratios": {name: isolated.ratio(found[cases[name]], found[cases["ours"]]) for name in PEERS},
                    "utterance_ratios": {
                        name: isolated.ratio(found[cases[name]], found[cases["ours"]], "utterances") for name in PEERS
                    },
                    "difference": {name: isolated.median(found[cases[name]], "difference") for name in PEERS},
                    **isolated.machine(options.threads),
                }
            )
        )


if __name__ == "__main__":
    main()
