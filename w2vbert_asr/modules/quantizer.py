"""The Gumbel-softmax vector quantizer (Baevski et al. 2020, section 2 "Quantization module", equation 1).

Dimension letters: B batch, T frames, F feature dimension, G codebooks, C codes a book, D code dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from w2vbert_asr.counter_random import draw_keys, gumbel
from w2vbert_asr.modules.batch_norm import MaskedBatchNorm


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """num_codebooks: G. num_codes: C. code_dim: D over all books together.

    temperature_start falls geometrically to temperature_end over temperature_share of the run (Chung et al. 2021
    decay by
    a factor an update; a share fits a run of any length). logit_std: standard deviation of the initial logits for
    normalised input: it must stand well above the Gumbel noise (1.28), or the sampled codes are noise and nothing
    learns. input_norm: batch centres and scales every feature over the valid frames of the micro-batch on all ranks
    (the papers are silent). Without it what all frames have in common decides the codes, few of them are used at the
    start, and the diversity loss has to mend that first; with it the losses of a batch are no longer exactly the sums
    over its micro-batches.
    """

    num_codebooks: int = 1
    num_codes: int = 256
    code_dim: int = 256
    temperature_start: float = 2.0
    temperature_end: float = 0.5
    temperature_share: float = 0.6
    logit_std: float = 4.0
    input_norm: Literal["none", "batch"] = "none"

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        found = []
        if self.num_codebooks < 1 or self.code_dim % self.num_codebooks:
            found.append(f"code_dim={self.code_dim} is not a multiple of num_codebooks={self.num_codebooks}")
        if not 0.0 < self.temperature_end <= self.temperature_start:
            found.append("temperatures must satisfy 0 < temperature_end <= temperature_start")
        if not 0.0 < self.temperature_share <= 1.0:
            found.append("temperature_share must lie in (0, 1]")
        return found


@dataclass(frozen=True)
class Quantized:
    """What the quantizer says of every frame.

    logits (B, T, G, C), noise-free · choice (B, T, G, C), one-hot forward and soft backward · sampled_ids (B, T, G),
    arg-max of the noisy logits (noise-free in evaluation) · ids (B, T, G), arg-max of the noise-free ones.
    """

    logits: Tensor
    choice: Tensor
    sampled_ids: Tensor
    ids: Tensor


class GumbelQuantizer(nn.Module):
    """Logits over G books of C codes; a hard sample forward whose gradient is that of the soft one."""

    def __init__(self, input_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = MaskedBatchNorm(input_dim) if config.input_norm == "batch" else None
        books, codes = config.num_codebooks, config.num_codes
        self.logits = nn.Linear(input_dim, books * codes)
        self.codebook = nn.Parameter(torch.empty(books, codes, config.code_dim // books))
        nn.init.normal_(self.logits.weight, std=config.logit_std / math.sqrt(input_dim))
        nn.init.zeros_(self.logits.bias)
        nn.init.normal_(self.codebook, std=1.0 / math.sqrt(config.code_dim // books))

    def temperature(self, progress: float) -> float:
        """Temperature at a share `progress` in [0, 1] of the run."""
        config = self.config
        share = min(progress / config.temperature_share, 1.0)
        return config.temperature_start * math.pow(config.temperature_end / config.temperature_start, share)

    def forward(
        self, features: Tensor, pad_mask: Tensor, utt_ids: Sequence[str], seed: int, step: int, temperature: float
    ) -> Quantized:
        """Quantize unmasked features (B, T, F), pad_mask (B, T), in float32 whatever the autocast.

        Noise only in training.
        """
        books, codes = self.config.num_codebooks, self.config.num_codes
        with torch.autocast(features.device.type, enabled=False):
            centred = features.float() if self.norm is None else self.norm(features, pad_mask)
            logits: Tensor = self.logits(centred).view(*features.shape[:-1], books, codes)
            noisy = logits
            if self.training:
                frames = torch.arange(features.shape[1], device=features.device)
                counters = frames[:, None] * (books * codes) + torch.arange(books * codes, device=features.device)
                keys = draw_keys(seed, step, utt_ids, "gumbel", features.device)
                noisy = logits + gumbel(keys[:, None, None], counters).view(logits.shape)
            sampled_ids = noisy.argmax(-1)
            soft = torch.softmax(noisy / temperature, dim=-1)
            hard = torch.zeros_like(soft).scatter_(-1, sampled_ids[..., None], 1.0)
            return Quantized(logits, hard + (soft - soft.detach()), sampled_ids, logits.argmax(-1))

    def vectors(self, choice: Tensor) -> Tensor:
        """Quantized vectors (..., D) of choices (..., G, C): the chosen code of each book, concatenated."""
        with torch.autocast(choice.device.type, enabled=False):
            return torch.einsum("...gc,gcd->...gd", choice.float(), self.codebook).flatten(-2)
