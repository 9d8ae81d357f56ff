"""W2V-BERT pre-training (Chung et al. 2021, "W2v-BERT", arXiv 2108.06209).

A feature encoder; a contrastive stack that must recognise the quantized vectors of masked frames; a prediction stack on
top of it that must name their token ids; one quantizer that learns both targets in the same step.

Dimension letters: B batch, T frames (40 ms), D model, M masked frames, G codebooks, C codes a book.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from w2vbert_asr.batch import Batch, lengths_to_pad_mask
from w2vbert_asr.collectives import all_reduce_sum
from w2vbert_asr.losses.contrastive import ContrastiveConfig, contrastive_loss, draw_distractors
from w2vbert_asr.losses.diversity import diversity_loss, mean_code_probs, perplexity
from w2vbert_asr.losses.masked_prediction import masked_prediction_loss, num_correct
from w2vbert_asr.losses.output import LossOutput, LossTerm
from w2vbert_asr.models.encoder import Encoder, EncoderConfig
from w2vbert_asr.modules.quantizer import GumbelQuantizer, Quantized, QuantizerConfig
from w2vbert_asr.modules.spans import SpanMaskConfig, draw_span_mask, replace_masked

_WINDOW_FRAMES_PER_CODE = 20


@dataclass(frozen=True, kw_only=True)
class W2VBertConfig:
    """contrastive_layers of the encoder's blocks learn the contrastive task, the others (on top) predict masked ids.

    contrastive_weight 0 leaves out L_w (the paper's ablation); with contrastive_layers = encoder.num_layers
    there is no masked prediction. targets: of masked prediction, detached from the quantizer or straight-through.
    token_ids: arg-max
    of the noise-free or of the sampled logits. prediction_warmup_share: share of the run over which the weight of L_m
    rises from 0.1 to prediction_weight.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    contrastive_layers: int = 6
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    span_mask: SpanMaskConfig = field(default_factory=SpanMaskConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    contrastive_weight: float = 1.0
    diversity_weight: float = 0.1
    prediction_weight: float = 1.0
    prediction_warmup_share: float = 0.0
    targets: Literal["detached", "straight_through"] = "detached"
    token_ids: Literal["noise_free", "sampled"] = "noise_free"

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        found = []
        if not 0 <= self.contrastive_layers <= self.encoder.num_layers:
            found.append(
                f"contrastive_layers={self.contrastive_layers} exceeds encoder.num_layers={self.encoder.num_layers}"
            )
        if self.contrastive_weight == 0.0 and self.contrastive_layers == self.encoder.num_layers:
            found.append("with contrastive_weight 0 and every block contrastive no task is left")
        return found

    @property
    def has_prediction(self) -> bool:
        """Whether there is a masked-prediction stack."""
        return self.contrastive_layers < self.encoder.num_layers


@dataclass(frozen=True)
class Targets:
    """What is masked, and what is to be found there.

    features (B, T, feature dim), unmasked · lens (B,) · pad_mask, span_mask (B, T) · valid, masked: utterance and frame
    of each that is no padding, that is masked · quantized: of every frame.
    """

    features: Tensor
    lens: Tensor
    pad_mask: Tensor
    span_mask: Tensor
    valid: tuple[Tensor, Tensor]
    masked: tuple[Tensor, Tensor]
    quantized: Quantized

    @property
    def padding(self) -> Tensor | None:
        """pad_mask, None where nothing is padding."""
        return self.pad_mask if len(self.valid[0]) < self.pad_mask.numel() else None


@dataclass(frozen=True)
class Distractors:
    """frames (B, M): masked frames in order · valid (B, M): False at padding · chosen (B, M, M): of each, in a row."""

    frames: Tensor
    valid: Tensor
    chosen: Tensor


class W2VBert(nn.Module):
    """The pre-training model: Batch -> LossOutput. `max_steps` is the length of the run, for its schedules."""

    code_counts: Tensor

    def __init__(self, config: W2VBertConfig, max_steps: int) -> None:
        super().__init__()
        self.config = config
        self.max_steps = max_steps
        self.encoder = Encoder(config.encoder)
        self.quantizer = GumbelQuantizer(self.encoder.subsampling.output_dim, config.quantizer)
        quantizer = config.quantizer
        if config.contrastive_weight:
            self.context = nn.Linear(self.encoder.output_dim, quantizer.code_dim)
        if config.has_prediction:
            self.prediction = nn.Linear(self.encoder.output_dim, quantizer.num_codebooks * quantizer.num_codes)
        self.register_buffer("code_counts", torch.zeros(quantizer.num_codebooks, quantizer.num_codes))

    def forward(self, batch: Batch, seed: int, step: int) -> LossOutput:
        """All losses of a batch; what is drawn depends on (seed, step, utt_id) alone."""
        config = self.config
        targets = self.targets(batch, seed, step)
        span_mask, quantized = targets.span_mask, targets.quantized

        masked = replace_masked(targets.features, targets.masked, batch.utt_ids, seed, step, config.span_mask.noise_std)
        context = self.encoder.run_blocks(self.encoder.project(masked), targets.padding, 0, config.contrastive_layers)

        num_masked = span_mask.sum()
        logits = quantized.logits[targets.valid]
        mean_probs = mean_code_probs(logits)
        terms = {"diversity": LossTerm(diversity_loss(mean_probs) * num_masked, num_masked, config.diversity_weight)}
        stats = self._code_stats(logits.detach(), quantized.ids[targets.valid], mean_probs)
        one = torch.ones((), device=span_mask.device)
        stats["masked_share"] = (num_masked, targets.lens.sum())
        stats["temperature"] = (one * self.quantizer.temperature(self._progress(step)), one)
        if config.contrastive_weight:
            self._add_contrastive(terms, stats, context, quantized, span_mask, batch, seed, step)
        if config.has_prediction:
            top = self.encoder.run_blocks(
                context, targets.padding, config.contrastive_layers, config.encoder.num_layers
            )
            self._add_prediction(terms, stats, top[targets.masked], quantized, targets, self._progress(step))
        return LossOutput(terms, stats)

    def targets(self, batch: Batch, seed: int, step: int) -> Targets:
        """Unmasked features, their codes, and the frames to be masked."""
        features, lens = self.encoder.subsampling(batch.feats, batch.feat_lens)
        pad_mask = lengths_to_pad_mask(lens, features.shape[1])
        span_mask = draw_span_mask(lens, features.shape[1], batch.utt_ids, seed, step, self.config.span_mask)
        valid, masked = ((one[:, 0], one[:, 1]) for one in ((~pad_mask).nonzero(), span_mask.nonzero()))
        return Targets(
            features=features,
            lens=lens,
            pad_mask=pad_mask,
            span_mask=span_mask,
            valid=valid,
            masked=masked,
            quantized=self.quantizer(
                features, pad_mask, batch.utt_ids, seed, step, self.quantizer.temperature(self._progress(step))
            ),
        )

    def distractors(self, span_mask: Tensor, batch: Batch, seed: int, step: int) -> Distractors:
        """Those of every masked frame."""
        frames, valid = masked_frames(span_mask)
        num = self.config.contrastive.num_distractors
        return Distractors(frames, valid, draw_distractors(valid, frames, batch.utt_ids, seed, step, num))

    def _progress(self, step: int) -> float:
        return step / max(self.max_steps, 1)

    def _add_contrastive(
        self,
        terms: dict[str, LossTerm],
        stats: dict[str, tuple[Tensor, Tensor]],
        context: Tensor,
        quantized: Quantized,
        span_mask: Tensor,
        batch: Batch,
        seed: int,
        step: int,
    ) -> None:
        config = self.config
        drawn = self.distractors(span_mask, batch, seed, step)
        frames = drawn.frames
        rows = torch.arange(len(frames), device=frames.device)[:, None]
        output = contrastive_loss(
            self.context(context[rows, frames]),
            self.quantizer.vectors(quantized.choice[rows, frames]),
            quantized.sampled_ids[rows, frames],
            drawn.valid,
            drawn.chosen,
            config.contrastive,
        )
        loss = output.loss
        terms["contrastive"] = LossTerm(loss.sum(), output.count, config.contrastive_weight, loss.detach())
        stats["contrastive_accuracy"] = (output.correct, output.count)
        stats["equal_distractors"] = (output.equal_distractors, output.num_distractors)

    def _add_prediction(
        self,
        terms: dict[str, LossTerm],
        stats: dict[str, tuple[Tensor, Tensor]],
        top: Tensor,
        quantized: Quantized,
        targets: Targets,
        progress: float,
    ) -> None:
        config = self.config
        logits = (
            self.prediction(top).float().unflatten(-1, (config.quantizer.num_codebooks, config.quantizer.num_codes))
        )
        ids = (quantized.ids if config.token_ids == "noise_free" else quantized.sampled_ids)[targets.masked]
        choice = torch.zeros_like(logits).scatter_(-1, ids[..., None], 1.0)
        if config.targets == "straight_through":
            noise_free = config.token_ids == "noise_free"
            soft = torch.softmax(quantized.logits, dim=-1) if noise_free else quantized.choice
            soft = soft[targets.masked]
            choice = choice + (soft - soft.detach())
        count = targets.span_mask.sum()
        share = min(progress / config.prediction_warmup_share, 1.0) if config.prediction_warmup_share else 1.0
        weight = config.prediction_weight * (0.1 + 0.9 * share)
        losses = masked_prediction_loss(logits, choice)
        by_utterance = losses.new_zeros(len(targets.lens)).index_add(0, targets.masked[0], losses.detach())
        terms["masked_prediction"] = LossTerm(losses.sum(), count, weight, by_utterance)
        stats["accuracy"] = (num_correct(logits.detach(), ids), count)

    @torch.no_grad()
    def _code_stats(self, logits: Tensor, ids: Tensor, mean_probs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Entropy and perplexity of the soft codes; perplexity and use of the hard ones over 20 C frames.

        Of the N valid frames: logits (N, G, C), ids (N, G).
        """
        num_codes = self.config.quantizer.num_codes
        log_probs = torch.log_softmax(logits, dim=-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean(-1)
        used = torch.zeros_like(self.code_counts)
        used.scatter_add_(1, ids.T, torch.ones_like(ids.T, dtype=used.dtype))
        used = all_reduce_sum(used)
        if self.training:
            keep = torch.exp(-used[0].sum() / (_WINDOW_FRAMES_PER_CODE * num_codes))
            self.code_counts.mul_(keep).add_(used)
            used = self.code_counts
        probs = used / used.sum(-1, keepdim=True).clamp(min=1.0)
        one = torch.ones((), device=logits.device)
        return {
            "code_entropy": (entropy.sum(), one * len(entropy)),
            "soft_perplexity": (perplexity(mean_probs).mean(), one),
            "code_perplexity": (perplexity(probs).mean(), one),
            "codes_used": ((used > 0.5).float().mean(), one),
        }


def masked_frames(span_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Masked frame indices of each utterance in order, (B, M), and which of them are not padding, (B, M)."""
    counts = span_mask.sum(1)
    size = int(counts.max()) if len(counts) else 0
    frames = torch.argsort((~span_mask).long(), dim=1, stable=True)[:, :size]
    valid = torch.arange(size, device=span_mask.device)[None, :] < counts[:, None]
    return frames, valid
