"""`w2vbert doctor`: what this machine and this installation have and lack, and how to get what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from w2vbert_asr.errors import ConfigError, SetupError, summarize

# Distribution -> the module that it brings; tests hold these to setup.py.
REQUIRED = {
    "jinja2": "jinja2",
    "kaldiio": "kaldiio",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pyyaml": "yaml",
    "rapidfuzz": "rapidfuzz",
    "safetensors": "safetensors.torch",
    "sentencepiece": "sentencepiece",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "tensorboard": "torch.utils.tensorboard",
    "torch": "torch",
    "tqdm": "tqdm",
}
OPTIONAL = {"torchaudio": "torchaudio"}
PEERS = {"jiwer": "jiwer", "kaldi-native-fbank": "kaldi_native_fbank", "kaldialign": "kaldialign"}
EXTRAS = {
    "mini": {"espeakng-loader": "espeakng_loader"},
    "test": {
        **PEERS,
        "hypothesis": "hypothesis",
        "mypy": "mypy",
        "pytest": "pytest",
        "pytest-timeout": "pytest_timeout",
        "pytest-xdist": "xdist",
        "ruff": "ruff",
        "types-PyYAML": "",  # stubs: nothing to import
        "types-tqdm": "",
    },
    "bench": {**PEERS, "lhotse": "lhotse", "urllib3": "urllib3"},
    "peers": {"transformers": "transformers"},
}
_TORCHAUDIO_REMEDY = (
    "install torch and torchaudio from one index, both with CUDA or both for the CPU (torchaudio from the default "
    "index does not import beside a CPU-only torch); only resampling of tensors and forced alignment need it"
)


@dataclass(frozen=True, kw_only=True)
class Config:
    extras: tuple[str, ...] = ()  # extras of setup.py that have to be there, too


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked for; `absent` is an optional thing that is not there, `missing` a required one."""

    name: str
    status: Literal["ok", "absent", "missing"]
    detail: str
    remedy: str = ""


def run(config: Config) -> dict[str, object]:
    """Print the findings. Raises SetupError when something required is missing, ConfigError for an unknown extra."""
    unknown = sorted(set(config.extras) - set(EXTRAS))
    if unknown:
        raise ConfigError(f"extras: no extra is called {unknown[0]!r}; there are {', '.join(EXTRAS)}")
    findings = [*_machine(), *_packages(config.extras), *_torch(), _sctk()]
    for finding in findings:
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        print(f"{finding.status:8}{finding.name:20}{finding.detail}{remedy}")
    missing = [f"{f.name}: {f.detail} -> {f.remedy}" for f in findings if f.status == "missing"]
    if missing:
        raise SetupError("required, but missing:\n" + summarize(missing))
    return {"findings": [asdict(finding) for finding in findings]}


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(name="python", status="ok", detail=f"{version} ({sys.executable})")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(name="cores", status="ok", detail=str(cores))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(name="memory", status="ok", detail=_gigabytes(memory))
    disk = shutil.disk_usage(Path.cwd())
    yield Finding(name="disk here", status="ok", detail=f"{_gigabytes(disk.free)} free of {_gigabytes(disk.total)}")


def _packages(extras: tuple[str, ...]) -> Iterator[Finding]:
    for distribution, module in REQUIRED.items():
        yield _package(distribution, module, "missing", "tools/install.sh")
    for distribution, module in OPTIONAL.items():
        yield _package(distribution, module, "absent", _TORCHAUDIO_REMEDY)
    yield _package("kenlm", "kenlm", "absent", "pip install kenlm; only its binary language models need it")
    for extra, modules in EXTRAS.items():
        for distribution, module in modules.items():
            finding = _package(
                distribution,
                module,
                "missing" if extra in extras else "absent",
                f"tools/install.sh --extras {extra}",
                note=f" (extra {extra})",
            )
            yield finding


def _package(
    distribution: str, module: str, otherwise: Literal["absent", "missing"], remedy: str, note: str = ""
) -> Finding:
    try:
        version = importlib.metadata.version(distribution)
        if module:
            importlib.import_module(module)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=distribution, status=otherwise, detail=f"not installed{note}", remedy=remedy)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # what a broken shared library raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding(name=distribution, status=otherwise, detail=f"does not import: {reason}{note}", remedy=remedy)
    return Finding(name=distribution, status="ok", detail=f"{version}{note}")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError):
        return  # already among the packages
    from w2vbert_asr.training.precision import cpu_flags

    fast = cpu_flags()
    detail = f"in hardware ({', '.join(fast)})" if fast else "none; trainer.precision=auto trains in fp32"
    yield Finding(name="bf16 on the CPU", status="ok", detail=detail)
    if not torch.cuda.is_available():
        remedy = "training runs on the CPU; for a GPU, install its driver and a torch built for CUDA"
        yield Finding(name="CUDA", status="absent", detail="no device that torch can use", remedy=remedy)
        return
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        detail = f"{device.name}, {_gigabytes(device.total_memory)}, {bf16}"
        yield Finding(name=f"CUDA {index}", status="ok", detail=detail)


def _sctk() -> Finding:
    """NIST's scorer: Debian's package has it as `sctk sclite`, a build from source as `sclite`."""
    path = shutil.which("sctk") or shutil.which("sclite")
    if path:
        return Finding(name="sctk", status="ok", detail=path)
    remedy = "apt-get install sctk; only the comparison with sclite in the tests needs it"
    return Finding(name="sctk", status="absent", detail="not on PATH", remedy=remedy)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
