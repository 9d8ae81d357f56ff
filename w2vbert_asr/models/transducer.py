"""The transducer that fine-tuning trains (Graves 2012; Chung et al. 2021).

Encoder, linear-Swish-BatchNorm projection block, LSTM decoder, joiner; optionally a CTC head on the encoder.

Dimension letters: B batch, T frames (40 ms), F mel bins, E projection, U tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.batch import Batch, lengths_to_pad_mask
from w2vbert_asr.losses.ctc import ctc_loss
from w2vbert_asr.losses.output import LossOutput, LossTerm
from w2vbert_asr.losses.pruned import pruned_transducer_loss
from w2vbert_asr.losses.transducer import joint_transducer_loss
from w2vbert_asr.models.decoder import DecoderConfig, LSTMDecoder
from w2vbert_asr.models.encoder import Encoder, EncoderConfig
from w2vbert_asr.models.joiner import Joiner, JoinerConfig
from w2vbert_asr.modules.batch_norm import MaskedBatchNorm
from w2vbert_asr.modules.dropout import Dropout


@dataclass(frozen=True, kw_only=True)
class TransducerConfig:
    """projection_dim: E, of the projection block. ctc_weight: of the auxiliary CTC loss (Graves et al. 2006); 0 leaves
    its head out, as in the paper. fastemit: how much more the tokens' arcs count in the gradient, for less delay (Yu et
    al. 2021, arXiv 2010.11148). loss: over all alignments, or pruned (Kuang et al. 2022, arXiv
    2206.13236) to a band of prune_range cells a frame; over the first prune_warmup_share of the run the weight of the
    pruned loss rises from 0.1 to 1, while that of the additive one, which places the band, falls from 1 to 0.5."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    projection_dim: int = 640
    projection_dropout: float = 0.0
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    joiner: JoinerConfig = field(default_factory=JoinerConfig)
    ctc_weight: float = 0.0
    fastemit: float = 0.0
    loss: Literal["full", "pruned"] = "full"
    prune_range: int = 5
    prune_warmup_share: float = 0.1

    def problems(self) -> list[str]:
        """What is out of range."""
        found = [
            f"{key}: {getattr(self, key)} is negative" for key in ("ctc_weight", "fastemit") if getattr(self, key) < 0
        ]
        if self.prune_range < 2:
            found.append(f"prune_range: {self.prune_range}; at least 2, for a token to be emitted at all")
        if not 0.0 <= self.prune_warmup_share <= 1.0:
            found.append(f"prune_warmup_share: {self.prune_warmup_share} is no share of the run, 0 to 1")
        return found


class ProjectionBlock(nn.Module):
    """Linear, Swish, BatchNorm over valid frames (Zhang et al. 2020, arXiv 2010.10504), dropout."""

    def __init__(self, input_dim: int, output_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)
        self.norm = MaskedBatchNorm(output_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, pad_mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) True at padding -> (B, T, E)."""
        return self.dropout(self.norm(F.silu(self.linear(x)), pad_mask))  # type: ignore[no-any-return]


class AdditiveScores(nn.Module):
    """The logits of the additive lattice that places the band of the pruned loss; unused in search."""

    def __init__(self, encoder_dim: int, decoder_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(encoder_dim, vocab_size)
        self.decoder = nn.Linear(decoder_dim, vocab_size, bias=False)  # the other has the bias

    def forward(self, projected: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, E), (B, U + 1, D) -> (B, T, V), (B, U + 1, V)."""
        return self.encoder(projected), self.decoder(predicted)


class Transducer(nn.Module):
    """Batch -> LossOutput in training; `encode`, `decoder` and `joiner` in search.

    max_steps: length of the run, for the warm-up of the pruned loss.
    """

    def __init__(self, config: TransducerConfig, vocab_size: int, blank_id: int, max_steps: int = 1) -> None:
        super().__init__()
        self.config = config
        self.max_steps = max_steps
        self.vocab_size = vocab_size
        self.blank_id = blank_id
        self.encoder = Encoder(config.encoder)
        self.projection = ProjectionBlock(self.encoder.output_dim, config.projection_dim, config.projection_dropout)
        self.decoder = LSTMDecoder(vocab_size, blank_id, config.decoder)
        self.joiner = Joiner(config.projection_dim, config.decoder.hidden_dim, vocab_size, config.joiner)
        if config.loss == "pruned":
            self.additive = AdditiveScores(config.projection_dim, config.decoder.hidden_dim, vocab_size)
        if config.ctc_weight:
            self.ctc = nn.Linear(self.encoder.output_dim, vocab_size)

    def encode(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> encoder_out (B, ceil(T / 4), E), encoder_out_lens (B,)."""
        encoder_out, lens, _ = self._encode(feats, feat_lens)
        return encoder_out, lens

    def encode_with_ctc(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`encode`, and CTC's log P of every symbol (B, ceil(T / 4), V) where the model has such a head."""
        encoder_out, lens, encoded = self._encode(feats, feat_lens)
        return encoder_out, lens, self._ctc_log_probs(encoded) if self.config.ctc_weight else None

    def forward(self, batch: Batch, seed: int, step: int) -> LossOutput:
        """The losses of a batch, as sums over utterances counted in tokens.

        Nothing is drawn here but dropout, which the trainer seeds; `seed` and `step` belong to the models' common form.
        """
        projected, lens, encoded = self._encode(batch.feats, batch.feat_lens)
        count = batch.token_lens.sum()
        terms = self._transducer_terms(projected, lens, batch, count, step)
        if self.config.ctc_weight:
            log_probs = self._ctc_log_probs(encoded)
            losses = ctc_loss(log_probs, batch.tokens, lens, batch.token_lens, self.blank_id)
            terms["ctc"] = LossTerm(losses.sum(), count, self.config.ctc_weight, losses.detach())
        return LossOutput(terms)

    def _encode(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, ceil(T / 4), E), lengths, and what the projection block was given."""
        encoded, lens = self.encoder(feats, feat_lens)
        return self.projection(encoded, lengths_to_pad_mask(lens, encoded.shape[1])), lens, encoded

    def _transducer_terms(
        self, projected: Tensor, lens: Tensor, batch: Batch, count: Tensor, step: int
    ) -> dict[str, LossTerm]:
        config = self.config
        predicted = self.decoder(batch.tokens, batch.token_lens)
        joined = (self.joiner.project_encoder(projected), self.joiner.project_decoder(predicted))
        output = (self.joiner.output.weight, self.joiner.output.bias)
        lengths = (lens, batch.token_lens)
        if config.loss == "full":
            losses = joint_transducer_loss(
                *joined, *output, batch.tokens, *lengths, self.blank_id, fastemit=config.fastemit
            )
            return {"transducer": LossTerm(losses.sum(), count, by_utterance=losses.detach())}
        by_frame, by_position = self.additive(projected, predicted)
        found = pruned_transducer_loss(
            *joined,
            *output,
            by_frame,
            by_position,
            batch.tokens,
            *lengths,
            self.blank_id,
            prune_range=config.prune_range,
            fastemit=config.fastemit,
        )
        warmup = config.prune_warmup_share * self.max_steps
        share = min(step / warmup, 1.0) if warmup else 1.0
        return {
            "transducer": LossTerm(found.pruned.sum(), count, 0.1 + 0.9 * share, found.pruned.detach()),
            "additive": LossTerm(found.additive.sum(), count, 1.0 - 0.5 * share, found.additive.detach()),
        }

    def _ctc_log_probs(self, encoded: Tensor) -> Tensor:
        """(B, T, V), in float32."""
        with torch.autocast(encoded.device.type, enabled=False):
            return torch.log_softmax(self.ctc(encoded.float()), dim=-1)
