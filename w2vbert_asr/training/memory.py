"""A batch that does not fit into memory: how that is recognised, and how the batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from w2vbert_asr.batch import FRAMES_PER_SECOND, Batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether numpy's, a GPU's or torch's CPU allocator has nothing left; the last says so in words only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(one in str(error) for one in words)


def halves(batch: Batch) -> list[Batch]:
    """The batch as two, without the padding that neither needs; one item cannot be split."""
    middle = (len(batch.utt_ids) + 1) // 2
    return [_part(batch, rows) for rows in (slice(middle), slice(middle, None)) if batch.utt_ids[rows]]


def _part(batch: Batch, rows: slice) -> Batch:
    feat_lens, token_lens = batch.feat_lens[rows], batch.token_lens[rows]
    return replace(
        batch,
        feats=batch.feats[rows, : int(feat_lens.max())],
        feat_lens=feat_lens,
        tokens=batch.tokens[rows, : int(token_lens.max())],
        token_lens=token_lens,
        utt_ids=batch.utt_ids[rows],
    )


def describe(batches: Sequence[Batch]) -> str:
    """The size of the largest of some batches, in a user's words."""
    batch = max(batches, key=lambda one: one.feats.shape[0] * one.feats.shape[1])
    items, frames = batch.feats.shape[:2]
    return (
        f"{items} item(s) of up to {frames / FRAMES_PER_SECOND:.1f} s and {batch.tokens.shape[1]} tokens, "
        f"{items * frames / FRAMES_PER_SECOND:.0f} s with padding"
    )
