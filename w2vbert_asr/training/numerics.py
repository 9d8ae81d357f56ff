"""How the device computes in a run: with the same bits each time, and float32 as the run's precision asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def numerics(device: torch.device, bf16: bool, deterministic: bool = True) -> Iterator[None]:
    """For the length of a run: algorithms that give the same bits each time, and on a GPU what float32 means.

    With `deterministic` an operation that has no such algorithm is an error on a GPU, since torch's attention goes by
    that, and a warning on a CPU. float32 products are exact on a GPU but where the others are in bf16: those that then
    stay in float32, such as the quantizer's, are made from TF32's 11 bits, which is more than the 8 their inputs were
    made from.
    """
    utils: Any = torch.utils.deterministic
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, tf32 = utils.fill_uninitialized_memory, (matmul.allow_tf32, cudnn.allow_tf32)
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        matmul.allow_tf32 = cudnn.allow_tf32 = bf16
    torch.use_deterministic_algorithms(deterministic, warn_only=not on_gpu)
    utils.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        utils.fill_uninitialized_memory = fill
        if on_gpu:
            matmul.allow_tf32, cudnn.allow_tf32 = tf32
