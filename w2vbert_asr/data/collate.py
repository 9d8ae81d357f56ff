"""Features and tokens of some utterances -> Batch.

Dimension letters: B batch, T frames, F features, U tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from w2vbert_asr.batch import Batch


def collate(
    feats: Iterable[Tensor],
    feat_lens: Sequence[int],
    tokens: Sequence[Sequence[int]],
    utt_ids: Sequence[str],
    blank_id: int,
) -> Batch:
    """(T, F) features and token ids of each utterance, padded to the longest with 0 and `blank_id`.

    Features are taken one at a time, so that one that makes them as it goes needs memory for one.
    """
    padded: Tensor | None = None
    for row, one in enumerate(feats):
        if padded is None:
            padded = one.new_zeros(len(feat_lens), max(feat_lens), one.shape[1])
        padded[row, : feat_lens[row]] = one
    assert padded is not None
    ids = torch.full((len(tokens), max(map(len, tokens), default=0)), blank_id, dtype=torch.int64)
    for row, some in enumerate(tokens):
        ids[row, : len(some)] = torch.as_tensor(some, dtype=torch.int64)
    return Batch(
        feats=padded,
        feat_lens=torch.tensor(feat_lens, dtype=torch.int64),
        tokens=ids,
        token_lens=torch.tensor([len(some) for some in tokens], dtype=torch.int64),
        utt_ids=tuple(utt_ids),
    )
