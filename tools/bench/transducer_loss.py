"""The transducer loss of this package beside others: time and memory of a forward and backward pass on a CPU.

    python tools/bench/transducer_loss.py [--sizes small,middle,large,growth] [--rounds 3] [--only CASE,...]
        [--threads 2] [--json]

All start from the same projections of encoder and decoder and end with the gradients of these and of the joiner's
output layer; every case in a process of its own, all in turns (isolated.py). exact: `joint_transducer_loss`. pruned:
`pruned_transducer_loss`, prune_range 5, with its additive lattice. torchaudio: its `rnnt_loss` of the joiner's logits.
plain: `transducer_loss` of them. products: the three matrix products of all cells (logits, by activations, by weights),
a chunk at a time, and nothing else; `exact` leaves products out whose result is lost in rounding, so that it can take
less than that. random: scores as of a model at its start; the more certain a model, the more is left out.

--rounds is of the small size, the others have one. growth: B, T, U and V of the small size twice as large, one at a
time, of this package's losses, to be compared with those of the small size. Seconds are medians over rounds, ratios
medians of the ratios within a round; memory (MB, 10^6 bytes) is the peak beyond the inputs. What would take more than
60 % of the free memory does not run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import isolated

Size = tuple[int, int, int, int, int]  # B, T, U, V, J
SMALL: Size = (8, 200, 40, 1024, 512)
SIZES: dict[str, Size] = {"small": SMALL, "middle": (16, 400, 80, 1024, 640), "large": (4, 800, 160, 4096, 640)}
CASES = (
    "exact-fp32", "exact-bf16", "pruned-fp32", "pruned-bf16", "plain", "torchaudio", "products-fp32", "products-bf16",
)  # fmt: skip
GROWTH_CASES = ("exact-fp32", "exact-bf16", "pruned-bf16")
LATTICES = {"plain": 3.0, "torchaudio": 3.0}  # (B, T, U + 1, V) in float32 that live at once; activations: one
ROOM = 0.6
CHUNK = 1 << 20  # logits of a product
MOST_CHUNKS = 64  # of products that are made; the time of more is in proportion


def sizes_of(names: str) -> dict[str, Size]:
    """By name; growth stands for the small size with one dimension twice as large."""
    found = {}
    for name in names.split(","):
        if name == "growth":
            for place, letter in enumerate("BTUV"):
                found[f"2{letter}"] = tuple(n * (1 + (at == place)) for at, n in enumerate(SMALL))
        elif name in SIZES:
            found[name] = SIZES[name]
        else:
            raise SystemExit(f"--sizes {name}: expected some of {', '.join([*SIZES, 'growth'])}")
    return found


def predicted_bytes(case: str, size: Size) -> float:
    """Of what holds the lattice of the whole batch."""
    batch, frames, tokens, vocab_size, joiner_dim = size
    cells = batch * frames * (tokens + 1)
    return LATTICES.get(case, 0.0) * cells * (vocab_size + joiner_dim / 3) * 4


def make_run(case: str, size: Size) -> Callable[[], object]:
    """One pass over inputs that are the same in all cases of a size."""
    import torch

    from w2vbert_asr.losses.pruned import pruned_transducer_loss
    from w2vbert_asr.losses.transducer import joint_transducer_loss, transducer_loss

    batch, frames, num_tokens, vocab_size, dim = size
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    tokens = torch.randint(1, vocab_size, (batch, num_tokens), generator=generator)
    lens = torch.full((batch,), frames), torch.full((batch,), num_tokens)
    joined = [leaf(batch, frames, dim), leaf(batch, num_tokens + 1, dim)]
    weight = (leaf(vocab_size, dim).detach() / dim**0.5).requires_grad_()
    leaves = [*joined, weight, leaf(vocab_size)]
    name, _, precision = case.partition("-")
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    if name == "products":
        return _products(weight.detach(), precision)
    scores = [leaf(batch, frames, vocab_size), leaf(batch, num_tokens + 1, vocab_size)] if name == "pruned" else []

    def logits() -> torch.Tensor:
        hidden = torch.tanh(joined[0][:, :, None] + joined[1][:, None])
        return torch.nn.functional.linear(hidden, weight, leaves[3])

    def loss() -> torch.Tensor:
        if name == "exact":
            return joint_transducer_loss(*leaves, tokens, *lens, 0).sum()
        if name == "pruned":
            found = pruned_transducer_loss(*leaves, *scores, tokens, *lens, 0, prune_range=5)
            return found.pruned.sum() + found.additive.sum()
        if name == "plain":
            return transducer_loss(logits(), tokens, *lens, 0).sum()
        from torchaudio.functional import rnnt_loss

        return rnnt_loss(logits(), tokens.int(), *(one.int() for one in lens), blank=0, reduction="sum")

    def run() -> object:
        with cast:
            total = loss()
        return torch.autograd.grad(total, [*leaves, *scores])

    return run


def _products(weight: Any, precision: str) -> Callable[[], object]:
    """The three of MOST_CHUNKS chunks, of numbers that are there already."""
    import torch

    weight = weight.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    rows = CHUNK // len(weight)
    hidden, gradient = (torch.randn(rows, width).to(weight.dtype) for width in reversed(weight.shape))

    def run() -> object:
        for _ in range(MOST_CHUNKS):
            results = hidden @ weight.T, gradient @ weight, gradient.T @ hidden
        return results

    return run


def measure(case: str) -> dict[str, Any]:
    """Figures of CASE@SIZE, in this process."""
    name, _, given = case.partition("@")
    size: Any = tuple(int(number) for number in given.split(","))
    need, free = predicted_bytes(name, size), isolated.free_memory()
    if need > ROOM * free:
        return {"failed": f"does not fit: {need / 1e9:.1f} GB, {free / 1e9:.1f} GB free"}
    make_run(name, (1, 20, 5, 64, 32))()
    figures = isolated.time_and_memory(make_run(name, size), repeats=1)
    if name.startswith("products"):
        batch, frames, tokens, vocab_size, _ = size
        figures["seconds"] *= batch * frames * (tokens + 1) / (MOST_CHUNKS * (CHUNK // vocab_size))
    return figures


def report(size: str, shape: Size, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians and ratios of a size."""
    rows: dict[str, Any] = {}
    for case, figures in found.items():
        if "failed" in figures[-1]:
            rows[case] = {"failed": figures[-1]["failed"]}
            continue
        precision = "fp32" if case in LATTICES else case.partition("-")[2]
        rows[case] = {
            "seconds": isolated.median(figures, "seconds"),
            "extra_mb": isolated.median(figures, "extra_mb"),
            "times_as_fast_as_torchaudio": isolated.ratio(found.get("torchaudio", []), figures),
            "of_its_products": isolated.ratio(figures, found.get(f"products-{precision}", [])),
        }
    return {"size": size, "B,T,U,V,J": list(shape), "cases": rows}


def print_table(one: dict[str, Any]) -> None:
    """A line a case."""
    print(f"\n{one['size']}: (B, T, U, V, J) = {tuple(one['B,T,U,V,J'])}")
    print(f"{'':<16}{'seconds':>10}{'MB':>9}{'x torchaudio':>14}{'of products':>13}")
    for case, row in one["cases"].items():
        if "failed" in row:
            print(f"{case:<16}{row['failed']}")
            continue
        numbers = row["times_as_fast_as_torchaudio"], row["of_its_products"]
        ratios = ["-" if number is None else f"{number:.2f}" for number in numbers]
        print(f"{case:<16}{row['seconds']:>10.3f}{row['extra_mb']:>9.0f}{ratios[0]:>14}{ratios[1]:>13}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", default="small,middle,large,growth")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help=f"some of {','.join(CASES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    sys.path.insert(0, str(isolated.ROOT))
    precisions = isolated.precisions()
    usual = [case for case in CASES if case in LATTICES or case.endswith(precisions)]
    cases = options.only.split(",") if options.only else usual
    if unknown := set(cases) - set(CASES):
        parser.error(f"--only: {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    results = []
    for name, size in sizes_of(options.sizes).items():
        rounds = options.rounds if name == "small" else 1
        own = cases if name in SIZES else [case for case in cases if case in GROWTH_CASES]
        given = ",".join(map(str, size))
        found = isolated.in_turns(__file__, [f"{case}@{given}" for case in own], rounds, options.threads, limit=900.0)
        results.append(report(name, size, {key.partition("@")[0]: figures for key, figures in found.items()}))
        print_table(results[-1])
    if options.json:
        print(json.dumps({"machine": isolated.machine(options.threads), "sizes": results}))


if __name__ == "__main__":
    main()
