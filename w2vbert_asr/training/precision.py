"""In which numbers a training computes its products: bf16 where the device has instructions for it, else float32.

Without such instructions an x86 CPU takes hundreds of times as long for a product in bf16 as in float32 (measured: 450
times, AVX2), and torch's LSTM does not run in it at all.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Literal

import torch

from w2vbert_asr.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]
_CPU_FLAGS = ("amx_bf16", "avx512_bf16")


def cpu_flags() -> list[str]:
    """Instructions for bf16 that this CPU has, as Linux names them; elsewhere none are known."""
    path = Path("/proc/cpuinfo")
    words = set(path.read_text(encoding="utf-8", errors="replace").split()) if path.exists() else set()
    return [flag for flag in _CPU_FLAGS if flag in words]


def settle(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto` becomes bf16 on a device that is known to have it. ConfigError for bf16 on a CPU that is known not to."""
    on_cpu = device.type == "cpu"
    has_bf16 = bool(cpu_flags()) if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return "bf16" if has_bf16 else "fp32"
    flags_are_known = (sys.platform, platform.machine()) == ("linux", "x86_64")
    if precision == "bf16" and on_cpu and not has_bf16 and flags_are_known:
        raise ConfigError(
            f"trainer.precision=bf16: this CPU has no instructions for it ({' or '.join(_CPU_FLAGS)}) and would take "
            "hundreds of times as long; use --precision auto, or fp32"
        )
    return precision
