"""An update of a training on a GPU, as its configuration says, beside what `w2vbert plan` says of it.

    python tools/bench/gpu.py --config recipes/librispeech/conf/pretrain_xl.yaml --items 16 [--set KEY=VALUE ...]
        [--padding 0.3] [--compile none,default,reduce-overhead] [--profile] [--json]

Losses, clipping and optimizer are those of training/, the batches are noise. --items: of the length that the plan
assumes; --padding: up to this share of it is cut off at random. TFLOP/s: the plan's FLOPs, without recomputation, over
the time of an update; the share is of the fastest product of two matrices of 8192 x 8192 in bf16 (fp32) in the same
process. GB (10^9 bytes): the most that tensors took, the most that the allocator held, and the plan's figure.
--profile: where the time of the GPU goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import isolated


def make_batches(training: Any, number: int, padding: float) -> list[Any]:
    """Batches of the plan's shape, of noise, on the GPU."""
    import torch

    from w2vbert_asr.batch import Batch, lengths_to_pad_mask

    shape, bins = training.batch(), training.model.encoder.subsampling.num_mel_bins
    generator = torch.Generator().manual_seed(0)
    batches = []
    for index in range(number):
        shares = 1.0 - padding * torch.rand(shape.items, generator=generator)
        shares[0] = 1.0
        lens, token_lens = ((shares * most).long() for most in (shape.feat_frames, shape.tokens))
        feats = torch.randn(shape.items, shape.feat_frames, bins, generator=generator)
        tokens = torch.randint(1, training.vocab_size, (shape.items, shape.tokens), generator=generator)
        batch = Batch(
            feats=feats.masked_fill(lengths_to_pad_mask(lens, shape.feat_frames)[:, :, None], 0.0),
            feat_lens=lens,
            tokens=tokens.masked_fill(lengths_to_pad_mask(token_lens, shape.tokens), 0),
            token_lens=token_lens,
            utt_ids=tuple(f"{index}-{row}" for row in range(shape.items)),
        )
        batches.append(batch.to("cuda"))
    return batches


def make_model(training: Any) -> Any:
    import torch

    from w2vbert_asr.models.transducer import Transducer
    from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig

    torch.manual_seed(0)
    with torch.device("cuda"):
        if isinstance(training.model, W2VBertConfig):
            return W2VBert(training.model, training.trainer.max_steps).train()
        return Transducer(training.model, training.vocab_size, 0, training.trainer.max_steps).train()


def make_update(training: Any, mode: str, padding: float) -> Callable[[], None]:
    """An update, on other batches in turns."""
    import torch
    from encoders import whole_update

    from w2vbert_asr.training.distributed import World, blocks
    from w2vbert_asr.training.update import Setting

    model, trainer = make_model(training), training.trainer
    for block in blocks(model) if mode != "none" else ():
        block.compile(dynamic=True, mode=mode)
    world = World(device=torch.device("cuda"))
    setting = Setting(seed=1, bf16=trainer.precision == "bf16", clip_norm=trainer.clip_norm, world=world)
    batches = make_batches(training, 4, padding)
    return whole_update(model, training.optimizers, batches, setting, trainer.max_steps, trainer.deterministic)


def measure(training: Any, mode: str, padding: float, repeats: int) -> dict[str, Any]:
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    update = make_update(training, mode, padding)
    for _ in range(5):
        update()
    seconds = [isolated.seconds_of(update, "cuda") for _ in range(repeats)]
    memory = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"seconds": statistics.median(seconds), "allocated_gb": memory[0] / 1e9, "reserved_gb": memory[1] / 1e9}


def show_profile(training: Any, mode: str, padding: float, rows: int) -> None:
    """Kernels by their time, over three updates, and the share of the time in which any ran."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    update = make_update(training, mode, padding)
    for _ in range(5):
        update()

    def three() -> None:
        for _ in range(3):
            update()

    alone = isolated.seconds_of(three, "cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        three()
        torch.cuda.synchronize()
    spans = [one for one in record.events() if one.device_type == torch.autograd.DeviceType.CUDA]
    by_name: dict[str, list[float]] = {}
    for one in spans:
        by_name.setdefault(one.key, []).append(one.time_range.elapsed_us())
    total = sum(map(sum, by_name.values()))
    print(f"\n{mode}: an update takes {alone / 3 * 1e3:.1f} ms, its {len(spans) // 3} kernels {total / 3e3:.1f}")
    for key, times in sorted(by_name.items(), key=lambda one: -sum(one[1]))[:rows]:
        print(f"{sum(times) / 3e3:9.2f} ms {len(times) // 3:6d} x  {key[:110]}")
    waits: dict[str, list[float]] = {}
    spans.sort(key=lambda one: one.time_range.start)
    until = spans[0].time_range.start
    for one in spans:
        waits.setdefault(one.key, []).append(max(one.time_range.start - until, 0.0))
        until = max(until, one.time_range.end)
    print("idle before a kernel, without gaps of under 20 us:")
    long = {key: [one for one in times if one >= 20.0] for key, times in waits.items()}
    for key, times in sorted(long.items(), key=lambda one: -sum(one[1]))[: rows // 2]:
        print(f"{sum(times) / 3e3:9.2f} ms {len(times) // 3:6d} x  {key[:110]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--padding", type=float, default=0.0)
    parser.add_argument("--compile", default="none,default")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rows", type=int, default=25, help="of the profile")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(isolated.ROOT))
    run(options, options.compile.split(","))


def run(options: argparse.Namespace, modes: Sequence[str]) -> None:
    import torch
    from encoders import Case, peak

    from w2vbert_asr.commands import plan
    from w2vbert_asr.planning.plan import Gpu, make_plan

    def load(*more: str) -> Any:
        return plan.load_training(plan.Config(config_file=options.config, settings=(*options.set, *more)))

    first = load()
    seconds = first.batch().feat_frames / 100
    training = load(f"data.batch_seconds={options.items * seconds}")
    assert training.batch().items == options.items, training.batch()
    planned = make_plan(training, 1, Gpu(peak_flops=989e12, utilisation=0.4, memory=80 * 2**30))
    best = peak(Case(model="peak", precision=training.trainer.precision, device="cuda"))["gflops"] / 1e3
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {training.trainer.precision}: {best:.0f} TFLOP/s"
    )
    print(f"{options.config}, {options.items} x {seconds:g} s, {planned.flops_per_step / 1e12:.2f} TFLOP an update")
    figures: dict[str, Any] = {"peak_tflops": best, "items": options.items, "planned_gb": planned.ddp.peak.total / 1e9}
    for mode in modes:
        try:
            found = measure(training, mode, options.padding, options.repeats)
        except torch.OutOfMemoryError:
            print(f"{mode:16} does not fit")
            continue
        rate = planned.flops_per_step / 1e12 / found["seconds"]
        figures[mode] = {**found, "tflops": rate, "share": rate / best}
        print(
            f"{mode:16}{found['seconds'] * 1e3:9.1f} ms {options.items * seconds / found['seconds']:9.0f} audio s/s "
            f"{rate:7.1f} TFLOP/s {rate / best:6.1%}  GB {found['allocated_gb']:.2f} of {found['reserved_gb']:.2f}, "
            f"planned {figures['planned_gb']:.2f}",
            flush=True,
        )
        if options.profile:
            show_profile(training, mode, options.padding, options.rows)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
