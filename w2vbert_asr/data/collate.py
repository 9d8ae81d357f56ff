"""Features and tokens of some utterances -> Batch.

Dimension letters: B batch, T frames, F features, U tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from w2vbert_asr.batch import Batch


def collate(feats: Sequence[Tensor], tokens: Sequence[Sequence[int]], utt_ids: Sequence[str], blank_id: int) -> Batch:
    """(T, F) features and token ids of each utterance, padded to the longest with 0 and `blank_id`."""
    feat_lens = [len(one) for one in feats]
    token_lens = [len(one) for one in tokens]
    padded = feats[0].new_zeros(len(feats), max(feat_lens), feats[0].shape[1])
    ids = torch.full((len(tokens), max(token_lens, default=0)), blank_id, dtype=torch.int64)
    for row, (one, some) in enumerate(zip(feats, tokens, strict=True)):
        padded[row, : len(one)] = one
        ids[row, : len(some)] = torch.as_tensor(some, dtype=torch.int64)
    return Batch(
        feats=padded,
        feat_lens=torch.tensor(feat_lens, dtype=torch.int64),
        tokens=ids,
        token_lens=torch.tensor(token_lens, dtype=torch.int64),
        utt_ids=tuple(utt_ids),
    )
