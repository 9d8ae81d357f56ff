"""The planned memory of the transducer loss against live tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
import torch

from tests.planning.live_tensors import LiveTensors
from w2vbert_asr.losses.joint import Limits
from w2vbert_asr.losses.transducer import joint_transducer_loss
from w2vbert_asr.models.joiner import JoinerConfig
from w2vbert_asr.models.transducer import TransducerConfig
from w2vbert_asr.planning.activations import Widths
from w2vbert_asr.planning.heads import lattice_bytes

MODEL = TransducerConfig(joiner=JoinerConfig(joiner_dim=48))


def measured(lens: Sequence[tuple[int, int]], vocab_size: int, precision: str, limits: Limits) -> int:
    """Bytes of live tensors at the worst moment of the loss, beyond its inputs and their gradients."""
    torch.manual_seed(0)
    frames, tokens = (max(column) for column in zip(*lens, strict=True))
    dim, batch = MODEL.joiner.joiner_dim, len(lens)
    shapes = [(batch, frames, dim), (batch, tokens + 1, dim), (vocab_size, dim), (vocab_size,)]
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    if precision == "bf16":  # as its projections give them
        leaves[:2] = [leaf.detach().bfloat16().requires_grad_() for leaf in leaves[:2]]
    drawn = torch.randint(1, vocab_size, (batch, tokens))
    frame_lens, token_lens = (torch.tensor(column) for column in zip(*lens, strict=True))
    with LiveTensors([*leaves, drawn]) as live, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        before = live.now
        joint_transducer_loss(*leaves, drawn, frame_lens, token_lens, 0, limits=limits)
    return live.peak - before - 4 * sum(leaf.numel() for leaf in leaves)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("lens", "vocab_size"),
    [
        ([(60, 20)] * 4, 500),
        ([(60, 20)] * 4, 30),
        ([(200, 3), (40, 30), (10, 1), (70, 25)], 200),
        ([(300, 100)], 64),
        ([(30, 10)] * 3, 3000),
    ],
    ids=str,
)
@pytest.mark.parametrize("group_bytes", [1 << 20, 64 << 20])
@pytest.mark.parametrize("kept_bytes", [0, 256 << 20])
def test_the_lattice(
    lens: list[tuple[int, int]],
    vocab_size: int,
    precision: Literal["fp32", "bf16"],
    group_bytes: int,
    kept_bytes: int,
) -> None:
    """In small chunks: of one that holds all cells, those that the alignment does not pass are left out."""
    limits = Limits(group_bytes=group_bytes, kept_bytes=kept_bytes, chunk_elements=1 << 15)
    planned = lattice_bytes(MODEL, lens, vocab_size, Widths.of(precision, "cpu"), limits)
    assert planned == pytest.approx(measured(lens, vocab_size, precision, limits), rel=0.15)
