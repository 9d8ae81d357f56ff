"""The feed-forward module of a conformer block (Gulati et al. 2020, section 2.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.modules.dropout import Dropout


class FeedForward(nn.Module):
    """LayerNorm, linear to `hidden_dim`, Swish, dropout, linear back, dropout."""

    def __init__(self, model_dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model_dim)
        self.expand = nn.Linear(model_dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, model_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), without the residual."""
        hidden = self.dropout(F.silu(self.expand(self.norm(x))))
        return self.dropout(self.contract(hidden))  # type: ignore[no-any-return]
