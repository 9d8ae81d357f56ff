"""The joiner: encoder frame and decoder vector -> logits over the vocabulary.

Source: Graves et al. 2013, arXiv 1303.5778, section 3.2.
Dimension letters: E encoder, D decoder, J joiner, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class JoinerConfig:
    """Width of the space in which encoder and decoder meet."""

    joiner_dim: int = 640

    def problems(self) -> list[str]:
        return [] if self.joiner_dim >= 1 else [f"joiner_dim: expected at least 1, found {self.joiner_dim}"]


class Joiner(nn.Module):
    """logits = output(tanh(encoder projection + decoder projection)).

    The projections are calls of their own: training and search make them once per frame and once per token, and only
    the output layer for pairs of both.
    """

    def __init__(self, encoder_dim: int, decoder_dim: int, vocab_size: int, config: JoinerConfig) -> None:
        super().__init__()
        self.encoder_projection = nn.Linear(encoder_dim, config.joiner_dim)
        self.decoder_projection = nn.Linear(decoder_dim, config.joiner_dim, bias=False)  # the other has the bias
        self.output = nn.Linear(config.joiner_dim, vocab_size)

    def project_encoder(self, encoder_out: Tensor) -> Tensor:
        """(..., E) -> (..., J)"""
        projected: Tensor = self.encoder_projection(encoder_out)
        return projected

    def project_decoder(self, decoder_out: Tensor) -> Tensor:
        """(..., D) -> (..., J)"""
        projected: Tensor = self.decoder_projection(decoder_out)
        return projected

    def forward(self, encoder_proj: Tensor, decoder_proj: Tensor) -> Tensor:
        """Projections (..., J) that broadcast against each other -> logits (..., V)."""
        logits: Tensor = self.output(torch.tanh(encoder_proj + decoder_proj))
        return logits
