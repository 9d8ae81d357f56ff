"""What a run sets for its length is set, and is as before afterwards; a device need not be there for that."""

from __future__ import annotations

import os

import pytest
import torch

from w2vbert_asr.training.numerics import numerics


def settings() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.mark.parametrize(
    ("device", "bf16", "deterministic", "expected"),
    [
        ("cpu", True, True, (True, True, False, True)),
        ("cpu", False, False, (False, False, False, True)),
        ("cuda", True, True, (True, False, True, True)),
        ("cuda", False, True, (True, False, False, False)),
        ("cuda", True, False, (False, False, True, True)),
    ],
)
def test_what_is_set_and_restored(
    device: str, bf16: bool, deterministic: bool, expected: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 is torch's default for convolutions alone."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = settings()
    with pytest.raises(KeyError), numerics(torch.device(device), bf16, deterministic):
        assert settings()[:1] == expected[:1] and settings()[2:] == expected[2:]
        assert not deterministic or settings()[1] == expected[1]
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == (device == "cuda")
        raise KeyError
    assert settings() == before
