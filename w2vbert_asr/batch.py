"""The batch that every model sees, and the one place where lengths become padding masks.

Dimension letters: B batch, T frames, F features, U tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES_PER_SECOND = 100  # of features


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded features and tokens, with their lengths; a padded tensor never travels without them.

    replaced: why an utterance is not in it, where another has taken its place (utt_id and reason).
    """

    feats: Tensor  # (B, T, F) float32, normalised; zero at padding
    feat_lens: Tensor  # (B,) int64
    tokens: Tensor  # (B, U) int64, blank_id at padding; U = 0 without transcripts
    token_lens: Tensor  # (B,) int64
    utt_ids: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...] = ()

    def padded(self, multiple: int) -> Batch:
        """The same with frames rounded up to a multiple."""
        more = -self.feats.shape[1] % multiple
        return replace(self, feats=F.pad(self.feats, (0, 0, 0, more))) if more else self

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return replace(
            self,
            feats=to_device(self.feats, device),
            feat_lens=to_device(self.feat_lens, device),
            tokens=to_device(self.tokens, device),
            token_lens=to_device(self.token_lens, device),
        )


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor there, without waiting for what is under way there."""
    return tensor.to(device, non_blocking=True)


def lengths_to_pad_mask(lengths: Tensor, max_len: int) -> Tensor:
    """(B,) lengths -> (B, max_len) bool, True at padding."""
    return torch.arange(max_len, device=lengths.device)[None, :] >= lengths[:, None]


def is_full(lengths: Tensor, max_len: int) -> bool:
    """Whether nothing is padding: the one question that the encoder waits for."""
    return bool((lengths == max_len).all())
