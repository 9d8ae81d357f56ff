"""The pruned transducer loss: sums over the alignments in a band by enumeration, and all of it in a wide one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.losses.test_transducer import BLANK, assert_near, joint_logits, joint_problem
from w2vbert_asr.losses.lattice import Cells
from w2vbert_asr.losses.pruned import band_starts, pruned_transducer_loss
from w2vbert_asr.losses.transducer import joint_loss_in_bands, joint_transducer_loss, transducer_loss


def additive_scores(leaves: list[Tensor], vocab_size: int) -> list[Tensor]:
    shapes = [(*leaf.shape[:2], vocab_size) for leaf in leaves[:2]]
    return [torch.randn(shape, dtype=leaves[0].dtype).requires_grad_() for shape in shapes]


def in_band(logits: Tensor, tokens: list[int], starts: list[int], size: int) -> Tensor:
    """-log P over the alignments whose every cell lies in the band, by enumeration; logits (T, U + 1, V)."""
    log_probs, paths = logits.log_softmax(-1), []
    for counts in itertools.product(range(len(tokens) + 1), repeat=len(log_probs)):
        if sum(counts) != len(tokens):
            continue
        score, u, inside = log_probs.new_zeros(()), 0, True
        for t, count in enumerate(counts):
            inside = inside and starts[t] <= u and u + count < starts[t] + size
            for _ in range(count):
                score, u = score + log_probs[t, u, tokens[u]], u + 1
            score = score + log_probs[t, u, BLANK]
        if inside:
            paths.append(score)
    assert paths, "no path in the band"
    return -torch.stack(paths).logsumexp(0)


@pytest.mark.parametrize("num_frames", range(1, 6))
@pytest.mark.parametrize("num_tokens", range(6))
@pytest.mark.parametrize("prune_range", [2, 3])
def test_equals_the_sum_over_the_alignments_of_the_band(num_frames: int, num_tokens: int, prune_range: int) -> None:
    torch.manual_seed(10 * num_frames + num_tokens)
    leaves, (tokens, *_) = joint_problem([num_frames], [num_tokens], 4, 3, torch.float64)
    starts, size = band_starts(torch.rand(num_frames, num_tokens + 1), prune_range)
    expected = in_band(joint_logits(*leaves)[0, :num_frames], tokens[0].tolist(), starts.tolist(), size)
    found = joint_loss_in_bands(*leaves, tokens, [num_frames], [num_tokens], BLANK, 0.0, [(starts, size)])
    assert (found[0] - expected).abs() < 1e-10
    gradients = torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected, leaves)
    for mine, wanted in zip(*gradients, strict=True):
        assert (mine - wanted).abs().max() < 1e-10


@pytest.mark.parametrize("seed", range(20))
def test_a_band_holds_a_path_and_follows_the_posterior(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_frames = int(torch.randint(1, 40, (), generator=generator))
    width = int(torch.randint(1, 60, (), generator=generator))
    diagonal = (torch.arange(num_frames)[:, None] * width / num_frames - torch.arange(width)).abs()
    starts, size = band_starts(torch.exp(-diagonal), 5)
    assert starts[0] == 0 and starts[-1] == width - size and 1 <= size <= width
    steps = starts.diff()
    assert bool((steps >= 0).all()) and bool((steps < max(size, 2)).all())
    if width <= 2 * num_frames and width > 5:  # wide enough to follow: the likely cell of each frame is inside
        peak = (torch.arange(num_frames) * width / num_frames).long()
        assert float(((starts <= peak) & (peak < starts + size)).double().mean()) > 0.9


def test_a_wide_band_gives_the_whole_loss_and_its_gradients() -> None:
    torch.manual_seed(0)
    leaves, rest = joint_problem([9, 4, 1], [5, 0, 2], 7, 6)
    scores = additive_scores(leaves, 7)
    found = pruned_transducer_loss(*leaves, *scores, *rest, prune_range=6)
    whole = joint_transducer_loss(*leaves, *rest)
    torch.testing.assert_close(found.pruned, whole)
    weights = torch.tensor([1.0, 0.5, 2.0])
    mine = torch.autograd.grad((found.pruned * weights).sum(), leaves, retain_graph=True)
    wanted = torch.autograd.grad((whole * weights).sum(), leaves)
    for one, other in zip(mine, wanted, strict=True):
        assert_near(one, other, 1e-5)


def test_the_additive_loss_is_that_of_the_sum_of_both_scores() -> None:
    torch.manual_seed(1)
    leaves, rest = joint_problem([8, 5], [4, 2], 6, 3, torch.float64)
    scores = additive_scores(leaves, 6)
    found = pruned_transducer_loss(*leaves, *scores, *rest).additive
    expected = transducer_loss(scores[0][:, :, None] + scores[1][:, None], *rest)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    mine = torch.autograd.grad(found.sum(), scores)
    for one, other in zip(mine, torch.autograd.grad(expected.sum(), scores), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_band_never_gives_more_probability_than_the_whole() -> None:
    torch.manual_seed(2)
    leaves, rest = joint_problem([30, 20], [12, 9], 8, 6)
    scores = additive_scores(leaves, 8)
    whole = joint_transducer_loss(*leaves, *rest)
    losses = [pruned_transducer_loss(*leaves, *scores, *rest, prune_range=size).pruned for size in (2, 4, 8, 13)]
    for narrow, wide in itertools.pairwise(losses):
        assert bool((narrow >= wide - 1e-4).all())
    assert bool((losses[0] > whole).all())
    torch.testing.assert_close(losses[-1], whole)


def test_more_tokens_than_the_band_has_room_for_widen_it() -> None:
    leaves, rest = joint_problem([2], [9], 5, 3)
    found = pruned_transducer_loss(*leaves, *additive_scores(leaves, 5), *rest, prune_range=2)
    assert torch.isfinite(found.pruned).all() and torch.isfinite(found.additive).all()
    cells = Cells.in_bands([2], [9], [band_starts(torch.rand(2, 10), 2)], torch.device("cpu"))
    assert cells.counts == [12]


def test_a_band_of_one_cell_is_refused() -> None:
    leaves, rest = joint_problem([2], [1], 5, 3)
    with pytest.raises(ValueError, match="expected at least 2"):
        pruned_transducer_loss(*leaves, *additive_scores(leaves, 5), *rest, prune_range=1)
