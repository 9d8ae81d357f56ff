"""CTC in a fixed order against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from w2vbert_asr.losses.ctc import ctc_loss, in_fixed_order


def torchs(log_probs: Tensor, tokens: Tensor, lens: Tensor, token_lens: Tensor, blank_id: int) -> Tensor:
    return F.ctc_loss(
        log_probs.transpose(0, 1), tokens, lens, token_lens, blank_id, reduction="none", zero_infinity=True
    )


@pytest.mark.parametrize("blank_id", [0, 3])
@pytest.mark.parametrize(
    ("frame_lens", "token_lens"),
    [([12, 7, 30], [5, 7, 9]), ([9], [0]), ([4, 1, 2], [0, 0, 0]), ([3, 40], [7, 12]), ([20, 20], [1, 2])],
)
def test_losses_and_gradients_are_torchs(frame_lens: list[int], token_lens: list[int], blank_id: int) -> None:
    """The third token repeats the second; an utterance with too few frames has neither loss nor gradient."""
    torch.manual_seed(0)
    logits = torch.randn(len(frame_lens), max(frame_lens) + 2, 6, dtype=torch.float64).requires_grad_()
    choices = torch.tensor([one for one in range(6) if one != blank_id])
    tokens = choices[torch.randint(5, (len(frame_lens), max(token_lens)))]
    tokens[:, 2:3] = tokens[:, 1:2][:, : tokens[:, 2:3].shape[1]]
    rest = tokens, torch.tensor(frame_lens), torch.tensor(token_lens), blank_id
    weights = torch.rand(len(frame_lens), dtype=torch.float64)
    found = []
    for loss in (torchs, ctc_loss, in_fixed_order):
        logits.grad = None
        losses = loss(logits.log_softmax(-1), *rest)
        (losses * weights).sum().backward()
        assert logits.grad is not None
        found.append((losses.detach(), logits.grad.clone()))
    for losses, grad in found[1:]:
        torch.testing.assert_close(losses, found[0][0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grad, found[0][1], rtol=1e-8, atol=1e-10)
    if frame_lens[0] == 3:
        assert found[2][0][0] == 0.0 and not found[2][1][0].any()
