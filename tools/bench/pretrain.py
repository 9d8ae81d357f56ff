"""Seconds of audio a second: a whole W2V-BERT update here, against the encoders of others, forward and backward only.

    python tools/bench/pretrain.py [--shape 8x12] [--rounds 2] [--threads 2] [--peer-dropout 0] [--json]
    python tools/bench/pretrain.py --grow length|batch|width|depth [--json]
    python tools/bench/pretrain.py --device cuda --shape 16x32 --dim 1024 --layers 24 --heads 16

`ours` is what training/ does in an update: losses, quantizer, clipping, AdamW. Peers are encoders of the same size
(12 blocks of 256 / 1024, 4 heads, kernel 31) behind our feature encoder (64 channels, 25 Hz), and beside them all of
transformers' Wav2Vec2ConformerForPreTraining (8 blocks of 256, waveforms, 50 Hz). We drop 0.1, as trainings do; peers
drop nothing, which is their faster setting. All get the same allocator settings and a process of their own.

GFLOP: of a step, three times the products and convolutions of a forward pass, with attention written out; nothing is
computed twice. `share`: GFLOP a second of the fastest product of two square matrices in the same run and precision
(2048; 8192 on a GPU). MB: the most that the process held in a step, beyond what it held before; on a GPU the most that
tensors took there, weights included (10^6 bytes). `--compile` compiles the blocks, ours and theirs.

The peers: `pip install -c constraints.txt -e .[peers]`. ESPnet wants older packages than those pinned; its encoder runs
without them: `pip install --no-deps espnet==202511 typeguard==4.6.0`. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import isolated
from encoders import MODELS, Case, run_case

PEERS = {  # name -> (what it is called, the module that it needs)
    "espnet": ("ESPnet ConformerEncoder", "espnet2"),
    "torchaudio": ("torchaudio Conformer", "torchaudio"),
    "transformers": ("transformers Wav2Vec2BertModel", "transformers"),
    "transformers_pretraining": ("transformers Wav2Vec2ConformerForPreTraining", "transformers"),
}
NAMES = {"ours": "W2V-BERT, the whole step", **{name: title for name, (title, _) in PEERS.items()}}
GROWTH: dict[str, list[dict[str, int]]] = {
    "length": [{"items": 1, "seconds": seconds} for seconds in (8, 16, 32, 64, 128)],
    "batch": [{"items": items} for items in (1, 2, 4, 8, 16)],
    "width": [{"dim": dim} for dim in (128, 256, 512)],
    "depth": [{"layers": layers} for layers in (6, 12, 24)],
}


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def case_of(options: argparse.Namespace, **sizes: int) -> Case:
    """Ours, in float32, as the options say."""
    return Case(
        model="ours", precision="fp32", device=options.device, compile=options.compile, repeats=options.repeats,
        peer_dropout=options.peer_dropout, **sizes,
    )  # fmt: skip


def compare(options: argparse.Namespace) -> None:
    """All models, or those that are installed, in both precisions."""
    items, seconds = (int(number) for number in options.shape.split("x"))
    sizes = {name: getattr(options, name) for name in ("dim", "layers", "heads", "kernel")}
    base = case_of(options, items=items, seconds=seconds, **sizes)
    models = [name for name in MODELS if name == "ours" or is_installed(PEERS[name][1])]
    models = [name for name in models if not options.models or name in options.models.split(",")]
    for name in MODELS.keys() - {"ours"}:
        if not is_installed(PEERS[name][1]):
            print(f"{NAMES[name]}: not installed, left out (--help says how)", file=sys.stderr)
    precisions = options.precisions
    cases = {
        (one, name): replace(base, model=name, precision=one).key() for one in precisions for name in ("peak", *models)
    }
    once = []  # what takes ten times as long as the others
    for precision, name in cases:
        if name == "transformers_pretraining":
            one = replace(base, model=name, precision=precision, repeats=1, warm=1).key()
            cases[precision, name] = one
            once.append(one)
    often = [one for one in cases.values() if one not in once]
    found = isolated.in_turns(str(Path(__file__)), often, options.rounds, options.threads)
    found |= isolated.in_turns(str(Path(__file__)), once, 1, options.threads)
    audio = items * seconds
    result: dict[str, Any] = {}
    for precision in precisions:
        of = {name: found[cases[precision, name]] for name in ("peak", *models)}
        best = max((one.get("gflops", 0.0) for one in of["peak"]), default=0.0)
        print(f"\n{precision}, {items} x {seconds} s; the fastest product has {best:.0f} GFLOP/s")
        print(f"{'':47}{'audio s/s':>10}{'s a step':>10}{'GFLOP':>8}{'share':>8}{'MB':>8}{'ours is':>9}")
        rows: dict[str, Any] = dict.fromkeys(MODELS)
        for name in models:
            figures = of[name]
            if "failed" in figures[-1]:
                print(f"{NAMES[name]:47}failed: {figures[-1]['failed']}")
                continue
            step, gflop = isolated.median(figures, "seconds") or 0.0, isolated.median(figures, "gflop") or 0.0
            rows[name] = audio / step
            share = gflop / step / best if best else 0.0
            if name == "ours":
                rows["peak_share"] = share
            faster = isolated.ratio(figures, of["ours"]) if "ours" in of else None
            print(
                f"{NAMES[name]:47}{audio / step:10.1f}{step:10.3f}{gflop:8.0f}{share:8.1%}"
                f"{isolated.median(figures, 'extra_mb'):8.0f}{f'{faster:8.2f}x' if faster else '':>9}"
            )
        result[precision] = {**rows, "peak_gflops": best}
    if options.json:
        print(json.dumps({**result, "shape": options.shape, **isolated.machine(options.threads, options.device)}))


def grow(options: argparse.Namespace) -> None:
    """How time and memory of our step grow with one of its sizes."""
    sizes = GROWTH[options.grow]
    print(f"{'':28}" + "".join(f"{head:>12}" for p in options.precisions for head in (f"{p} s", "audio s/s", "MB")))
    rows = []
    for size in sizes:
        base = case_of(options, **size)
        keys = {p: replace(base, precision=p).key() for p in options.precisions}
        found = isolated.in_turns(str(Path(__file__)), list(keys.values()), 1, options.threads)
        row: dict[str, Any] = dict(size)
        for precision, key in keys.items():
            row[precision] = found[key][0]
        cells = ""
        for precision in options.precisions:
            one = row[precision]
            if "failed" in one:
                cells += f"{'failed':>36}"
                continue
            cells += f"{one['seconds']:12.3f}{base.items * base.seconds / one['seconds']:12.1f}{one['extra_mb']:12.0f}"
        print(f"{', '.join(f'{name} {value}' for name, value in size.items()):28}{cells}", flush=True)
        rows.append(row)
    if options.json:
        print(json.dumps({"grow": options.grow, "rows": rows, **isolated.machine(options.threads, options.device)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8x12", help="items x seconds of a batch, such as 3x32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of a process, after four that are not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", default="", help=f"of {','.join(MODELS)}; all where not given")
    parser.add_argument("--precisions", help="fp32,bf16 or one of them; where not given, what the device has")
    parser.add_argument("--peer-dropout", type=float, default=0.0)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kernel", type=int, default=31, help="of the depthwise convolutions")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--grow", choices=sorted(GROWTH))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(isolated.ROOT))
    if options.case:
        print(json.dumps(run_case(Case(**json.loads(options.case)))))
        return
    options.precisions = options.precisions.split(",") if options.precisions else isolated.precisions(options.device)
    if options.grow:
        grow(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
