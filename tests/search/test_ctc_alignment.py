"""The best CTC path against all paths, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from w2vbert_asr.search.ctc_alignment import ctc_alignment

BLANK = 0


def best_of_all_paths(log_probs: Tensor, tokens: Sequence[int]) -> tuple[int, ...] | None:
    """(T, V): of every path that collapses to the tokens the most probable one, and where it enters each token."""
    best, entered = -torch.inf, None
    for path in itertools.product({BLANK, *tokens}, repeat=len(log_probs)):
        enters = [t for t, one in enumerate(path) if one != BLANK and (t == 0 or path[t - 1] != one)]
        if [path[t] for t in enters] == list(tokens):
            score = float(sum(log_probs[t, one] for t, one in enumerate(path)))
            if score > best:
                best, entered = score, tuple(enters)
    return entered


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_paths(seed: int) -> None:
    torch.manual_seed(seed)
    tokens = [(1, 2), (1, 1), (), (2,), (1, 2, 1), (2, 2, 2), (1, 2, 1, 2, 1, 2)]
    lens = torch.tensor([6, 5, 6, 1, 6, 4, 5])
    log_probs = (3 * torch.randn(len(lens), 6, 4)).log_softmax(-1)
    for own, count in zip(log_probs, lens.tolist(), strict=True):
        own[count:] = torch.nan  # padding is not looked at
    expected = [best_of_all_paths(own[:n], some) for own, n, some in zip(log_probs, lens.tolist(), tokens, strict=True)]
    assert ctc_alignment(log_probs, lens, tokens, BLANK) == expected
    assert expected[2] == () and expected[-2] is expected[-1] is None  # too few frames
    assert all(one is not None for one in expected[:-2])


def test_nothing_to_align() -> None:
    assert ctc_alignment(torch.zeros(2, 3, 4), torch.tensor([3, 2]), [(), ()], BLANK) == [(), ()]
