"""Benchmark cases in processes of their own: same threads, same allocator, in turns, so that noise meets all alike.

A benchmark script answers `--case NAME` by running that case and printing its figures, an object on one line; without
that option it calls `in_turns`, and prints a table, or with `--json` one object.

Every round starts one fresh process a case. A case that fails, or does not fit, says so in its row and does not stop
the others. Times are medians over rounds; a ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# glibc keeps what is freed, as the toolkit's own trainings do (w2vbert_asr/allocator.py): peers get that, too.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "THP_MEM_ALLOC_ENABLE": "1",
}


def in_own_process(script: str, case: str, threads: int, limit: float) -> dict[str, Any]:
    """The figures that `script --case CASE` prints, an object on its last line; {"failed": why} if it does not."""
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, script, "--case", case]
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=limit,
            env={**os.environ, **ALLOCATOR, **variables},
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_turns(
    script: str, cases: Sequence[str], rounds: int, threads: int, limit: float = 300.0
) -> dict[str, list[dict[str, Any]]]:
    """Of each case the figures of every round; one that fails in a round is not tried again."""
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            if number and "failed" in found[case][-1]:
                continue
            print(f"round {number + 1} of {rounds}: {case}", file=sys.stderr, flush=True)
            found[case].append(in_own_process(script, case, threads, limit))
    return found


def median(figures: Sequence[dict[str, Any]], key: str) -> float | None:
    """Over the rounds; None where the case failed."""
    values = [one[key] for one in figures if one.get(key) is not None]
    return statistics.median(values) if values else None


def ratio(of: Sequence[dict[str, Any]], to: Sequence[dict[str, Any]], key: str = "seconds") -> float | None:
    """Median over rounds of `of` / `to`; None where one of them failed."""
    pairs = [(a[key], b[key]) for a, b in zip(of, to, strict=False) if a.get(key) and b.get(key)]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def time_and_memory(run: Callable[[], object], repeats: int, warm: int = 1, device: str = "cpu") -> dict[str, float]:
    """seconds: median of `repeats` calls after `warm` that are not timed; extra_mb: peak of the first (10^6 bytes).

    extra_mb counts what the process holds beyond what it held before; on a GPU, the most that tensors took there in all
    calls. Something like `run`, but small, must have been called before, so that libraries are loaded and threads
    started.
    """
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak, proc(5)
    run()
    extra = _status("VmHWM") - before
    for _ in range(warm - 1):
        run()
    seconds = [seconds_of(run, device) for _ in range(repeats)]
    if device != "cpu":
        import torch

        extra = torch.cuda.max_memory_allocated()
    return {"seconds": statistics.median(seconds), "extra_mb": round(extra / 1e6, 1)}


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Of one call, to the end of what it started on a GPU."""
    import torch

    wait: Callable[[], None] = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """What is worth measuring: bf16 only on a CPU that has instructions for it, else a case takes hours."""
    from w2vbert_asr.training.precision import cpu_flags

    if cpu_flags() or device != "cpu":
        return "fp32", "bf16"
    print("this CPU has no instructions for bf16: fp32 alone is measured", file=sys.stderr)
    return ("fp32",)


def free_memory() -> int:
    """Bytes that the kernel could give a process now, the limit of its control group included."""
    words = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    free = int(words.split()[1]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free


def machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(),
        "threads": threads,
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def _status(name: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    words = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(words.split()[1]) * 1024
