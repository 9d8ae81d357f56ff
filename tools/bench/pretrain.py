"""Seconds of audio a second: a whole W2V-BERT update here, against the encoders of others, forward and backward only.

    python tools/bench/pretrain.py [--shape 8x12] [--rounds 2] [--threads 2] [--peer-dropout 0] [--json]
    python tools/bench/pretrain.py --grow length|batch|width|depth [--json]

`ours` is what training/ does in an update: losses, quantizer, clipping, AdamW. Peers are encoders of the same size
(12 blocks of 256 / 1024, 4 heads, kernel 31) behind our feature encoder (64 channels, 25 Hz), and beside them all of
transformers' Wav2Vec2ConformerForPreTraining (8 blocks of 256, waveforms, 50 Hz). We drop 0.1, as trainings do; peers
drop nothing, which is their faster setting. All get the same allocator settings and a process of their own.

GFLOP: of a step, three times the products and convolutions of a forward pass, with attention written out; nothing is
computed twice. `share`: GFLOP a second of the fastest 2048 x 2048 x 2048 product in the same run and precision. MB: the
most that the process held in a step, beyond what it held before (10^6 bytes).

The peers: `pip install -c constraints.txt -e .[peers]`. ESPnet wants older packages than those pinned; its encoder runs
without them: `pip install --no-deps espnet==202511 typeguard==4.6.0`. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import isolated

PEERS = {  # name -> (what it is called, the module that it needs)
    "espnet": ("ESPnet ConformerEncoder", "espnet2"),
    "torchaudio": ("torchaudio Conformer", "torchaudio"),
    "transformers": ("transformers Wav2Vec2BertModel", "transformers"),
    "transformers_pretraining": ("transformers Wav2Vec2ConformerForPreTraining", "transformers"),
}
NAMES = {"ours": "W2V-BERT, the whole step", **{name: title for name, (title, _) in PEERS.items()}}
HEADS, KERNEL, CHANNELS, RATE, MEL_BINS, MATRIX = 4, 31, 64, 16000, 80, 2048
GROWTH: dict[str, list[dict[str, int]]] = {
    "length": [{"items": 1, "seconds": seconds} for seconds in (8, 16, 32, 64, 128)],
    "batch": [{"items": items} for items in (1, 2, 4, 8, 16)],
    "width": [{"dim": dim} for dim in (128, 256, 512)],
    "depth": [{"layers": layers} for layers in (6, 12, 24)],
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one process measures: `model` is a key of NAMES, or peak."""

    model: str
    precision: str
    items: int = 8
    seconds: int = 12
    dim: int = 256
    layers: int = 12
    peer_dropout: float = 0.0
    repeats: int = 3
    warm: int = 4  # a process faults its memory in during the first steps

    def key(self) -> str:
        return json.dumps(asdict(self))


def feature_batch(case: Case) -> Any:
    """Filterbanks of noise, normalised."""
    import torch

    from w2vbert_asr.batch import Batch
    from w2vbert_asr.features.fbank import fbank

    waves = waveforms(case)
    feats = torch.stack([fbank(wave, RATE, MEL_BINS) for wave in waves])
    feats = (feats - feats.mean((0, 1))) / feats.std((0, 1))
    none = torch.zeros(case.items, dtype=torch.int64)
    return Batch(
        feats=feats,
        feat_lens=torch.full((case.items,), feats.shape[1]),
        tokens=none[:, None][:, :0],
        token_lens=none,
        utt_ids=tuple(f"utt{index}" for index in range(case.items)),
    )


def waveforms(case: Case) -> Any:
    """(B, N) samples; 240 more than whole frames, for the last window."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(case.items, case.seconds * RATE + 240, generator=generator)


def ours(case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
    """A whole update, and its forward pass."""
    import torch

    from w2vbert_asr.models.encoder import EncoderConfig
    from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
    from w2vbert_asr.modules.conformer import ConformerConfig
    from w2vbert_asr.modules.subsampling import SubsamplingConfig
    from w2vbert_asr.training import optimizer
    from w2vbert_asr.training.distributed import World
    from w2vbert_asr.training.trainer import deterministic
    from w2vbert_asr.training.update import Setting, compute_gradients, snapshot

    block = ConformerConfig(
        model_dim=case.dim, num_heads=HEADS, feed_forward_dim=4 * case.dim, kernel_size=KERNEL, dropout=0.1
    )
    subsampling = SubsamplingConfig(num_mel_bins=MEL_BINS, channels=CHANNELS)
    encoder = EncoderConfig(num_layers=case.layers, subsampling=subsampling, block=block)
    model = W2VBert(W2VBertConfig(encoder=encoder, contrastive_layers=case.layers // 2), max_steps=1000).train()
    parts = {"all": optimizer.Part(config=optimizer.OptimizerConfig())}
    optimizers = optimizer.build(model, parts, 1000)
    world = World(device=torch.device("cpu"))
    setting = Setting(seed=1, bf16=case.precision == "bf16", clip_norm=1.0, world=world)
    batch, steps = feature_batch(case), iter(range(1000))

    def update() -> None:
        step = next(steps)
        with deterministic(world):
            snapshot(model)
            optimizers.set_learning_rates(step)
            assert compute_gradients(model, optimizers.parameters, [batch], step, 0, setting).finite
            optimizers.step()
            optimizers.zero_grad()

    return update, lambda: model(batch, seed=1, step=0)


def behind_our_front_end(case: Case, encode: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """`encode(x, lens)` of our features, forward and backward, and forward alone. parts: modules to train."""
    import torch
    from torch import nn

    from w2vbert_asr.modules.subsampling import Subsampling, SubsamplingConfig

    front = Subsampling(SubsamplingConfig(num_mel_bins=MEL_BINS, channels=CHANNELS))
    projection = nn.Linear(front.output_dim, case.dim)
    model = nn.ModuleList([front, projection, *parts]).train()
    batch = feature_batch(case)

    def forward() -> Any:
        features, lens = front(batch.feats, batch.feat_lens)
        return encode(projection(features), lens)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            output = forward()
        output.float().mean().backward()
        model.zero_grad(set_to_none=True)

    return step, forward


def espnet(case: Case) -> Any:
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    encoder = ConformerEncoder(
        input_size=case.dim, output_size=case.dim, attention_heads=HEADS, linear_units=4 * case.dim,
        num_blocks=case.layers, dropout_rate=case.peer_dropout, positional_dropout_rate=case.peer_dropout,
        input_layer=None, macaron_style=True, rel_pos_type="latest", pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn", activation_type="swish", use_cnn_module=True, cnn_module_kernel=KERNEL,
    )  # fmt: skip
    return behind_our_front_end(case, lambda x, lens: encoder(x, lens)[0], [encoder])


def torchaudio(case: Case) -> Any:
    from torchaudio.models import Conformer

    encoder = Conformer(
        input_dim=case.dim, num_heads=HEADS, ffn_dim=4 * case.dim, num_layers=case.layers,
        depthwise_conv_kernel_size=KERNEL, dropout=case.peer_dropout,
    )  # fmt: skip
    return behind_our_front_end(case, lambda x, lens: encoder(x, lens)[0], [encoder])


def transformers(case: Case) -> Any:
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    dropout = case.peer_dropout
    config = Wav2Vec2BertConfig(
        feature_projection_input_dim=case.dim, hidden_size=case.dim, num_hidden_layers=case.layers,
        num_attention_heads=HEADS, intermediate_size=4 * case.dim, conv_depthwise_kernel_size=KERNEL, layerdrop=0.0,
        apply_spec_augment=False, mask_time_prob=0.0, hidden_dropout=dropout, activation_dropout=dropout,
        conformer_conv_dropout=dropout, feat_proj_dropout=dropout,
    )  # fmt: skip
    encoder = Wav2Vec2BertModel(config)
    return behind_our_front_end(case, lambda x, lens: encoder(x).last_hidden_state, [encoder])


def transformers_pretraining(case: Case) -> Any:
    import torch
    from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    dropout = case.peer_dropout
    config = Wav2Vec2ConformerConfig(
        hidden_size=case.dim, num_hidden_layers=8, num_attention_heads=HEADS, intermediate_size=4 * case.dim,
        conv_depthwise_kernel_size=KERNEL, layerdrop=0.0, hidden_dropout=dropout, activation_dropout=dropout,
        attention_dropout=0.0, conformer_conv_dropout=dropout, feat_proj_dropout=dropout,
        feat_quantizer_dropout=dropout,
    )  # fmt: skip
    model = Wav2Vec2ConformerForPreTraining(config).train()
    waves = waveforms(case)
    frames = int(model._get_feat_extract_output_lengths(waves.shape[1]))

    def forward() -> Any:
        mask = _compute_mask_indices((case.items, frames), mask_prob=0.65, mask_length=10)
        negatives = _sample_negative_indices((case.items, frames), config.num_negatives, mask_time_indices=mask)
        return model(
            waves, mask_time_indices=torch.from_numpy(mask), sampled_negative_indices=torch.from_numpy(negatives)
        ).loss

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            loss = forward()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step, forward


MODELS: dict[str, Callable[[Case], Any]] = {
    "ours": ours,
    "espnet": espnet,
    "torchaudio": torchaudio,
    "transformers": transformers,
    "transformers_pretraining": transformers_pretraining,
}


def peak(case: Case) -> dict[str, Any]:
    """Seconds of the fastest of many products of two square matrices."""
    import time

    import torch

    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    a, b = (torch.randn(MATRIX, MATRIX, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (0, 1))
    out, seconds = torch.empty(MATRIX, MATRIX, dtype=dtype), []
    for _ in range(30):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - began)
    return {"gflops": 2 * MATRIX**3 / min(seconds) / 1e9}


def run_case(case: Case) -> dict[str, Any]:
    """Seconds and MB of a step, and its GFLOP."""
    import torch

    from w2vbert_asr.allocator import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    if case.model == "peak":
        return peak(case)
    step, _ = MODELS[case.model](replace(case, items=1, seconds=2))
    step()
    gflop = count_gflop(case)
    step, _ = MODELS[case.model](case)
    return {**isolated.time_and_memory(step, case.repeats, case.warm), "gflop": gflop}


def count_gflop(case: Case) -> float | None:
    """GFLOP of a step, of a forward pass in float32 with attention written out; None where it cannot be counted."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    _, forward = MODELS[case.model](replace(case, items=1, precision="fp32"))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward()
    return 3e-9 * case.items * counter.get_total_flops()


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def compare(options: argparse.Namespace) -> None:
    """All models, or those that are installed, in both precisions."""
    items, seconds = (int(number) for number in options.shape.split("x"))
    base = Case(model="", precision="", items=items, seconds=seconds, peer_dropout=options.peer_dropout)
    models = [name for name in MODELS if name == "ours" or is_installed(PEERS[name][1])]
    models = [name for name in models if not options.models or name in options.models.split(",")]
    for name in MODELS.keys() - {"ours"}:
        if not is_installed(PEERS[name][1]):
            print(f"{NAMES[name]}: not installed, left out (--help says how)", file=sys.stderr)
    precisions = options.precisions
    base = replace(base, repeats=options.repeats)
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
        print(json.dumps({**result, "shape": options.shape, **isolated.machine(options.threads)}))


def grow(options: argparse.Namespace) -> None:
    """How time and memory of our step grow with one of its sizes."""
    sizes = GROWTH[options.grow]
    print(f"{'':28}" + "".join(f"{head:>12}" for p in options.precisions for head in (f"{p} s", "audio s/s", "MB")))
    rows = []
    for size in sizes:
        base = Case(model="ours", precision="fp32", **size)
        keys = {p: replace(base, precision=p, repeats=options.repeats).key() for p in options.precisions}
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
        print(json.dumps({"grow": options.grow, "rows": rows, **isolated.machine(options.threads)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8x12", help="items x seconds of a batch, such as 3x32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of a process, after four that are not")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", default="", help=f"of {','.join(MODELS)}; all where not given")
    parser.add_argument("--precisions", help="fp32,bf16 or one of them; where not given, what the CPU has")
    parser.add_argument("--peer-dropout", type=float, default=0.0)
    parser.add_argument("--grow", choices=sorted(GROWTH))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(isolated.ROOT))
    if options.case:
        print(json.dumps(run_case(Case(**json.loads(options.case)))))
        return
    options.precisions = options.precisions.split(",") if options.precisions else isolated.precisions()
    if options.grow:
        grow(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
