"""Which precision a training comes to on which device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import toy
from w2vbert_asr.errors import ConfigError
from w2vbert_asr.training import precision
from w2vbert_asr.training.run import TrainerConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("has_bf16", "asked", "found"),
    [
        (True, "auto", "bf16"),
        (True, "bf16", "bf16"),
        (True, "fp32", "fp32"),
        (False, "auto", "fp32"),
        (False, "fp32", "fp32"),
    ],
)
def test_precision_is_settled(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, asked: Any, found: str) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: ["avx512_bf16"] if has_bf16 else [])
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 and not including_emulation
    )
    assert precision.settle(asked, CPU) == precision.settle(asked, GPU) == found
    assert TrainerConfig(precision=asked).on(CPU) == TrainerConfig(precision=found)  # type: ignore[arg-type]


def test_a_cpu_without_bf16_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(precision, "cpu_flags", list)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ConfigError, match="--precision auto, or fp32"):
        toy.run(tmp_path, precision="bf16")
    monkeypatch.setattr("platform.machine", lambda: "arm64")  # its flags have other names
    assert precision.settle("bf16", CPU) == "bf16" and precision.settle("auto", CPU) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert precision.settle("bf16", GPU) == "bf16"  # emulated there, which is slower, but works


def test_flags_are_those_of_the_cpu() -> None:
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    assert precision.cpu_flags() == [flag for flag in ("amx_bf16", "avx512_bf16") if flag in text]
