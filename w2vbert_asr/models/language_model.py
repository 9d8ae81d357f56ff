"""A Transformer language model over word pieces, and its steps one token at a time with the keys and values kept.

Pre-norm blocks of causal self-attention and feed-forward modules, sinusoidal positions (Vaswani et al. 2017, arXiv
1706.03762, section 3.5). A row of tokens may hold several sentences, with blank between them: none sees another, and
positions begin anew. So blank stands for the start of a sentence where it is read, and for its end where it is said.

Dimension letters: B batch, U tokens, D model, H heads, E dimension of a head, V vocabulary, N prefixes, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.batch import Batch, lengths_to_pad_mask
from w2vbert_asr.losses.output import LossOutput, LossTerm
from w2vbert_asr.modules.dropout import Dropout
from w2vbert_asr.modules.feed_forward import FeedForward

_FIRST_SLOTS, _FIRST_LENGTH = 256, 32  # of the kept prefixes; both grow by doubling


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Sizes; the defaults suit a CPU. Chung et al. 2021 have 8 layers of 1024 with a feed-forward dimension of 4096."""

    num_layers: int = 4
    model_dim: int = 256
    num_heads: int = 4
    feed_forward_dim: int = 1024
    dropout: float = 0.1

    def problems(self) -> list[str]:
        """What is out of range."""
        names = ("num_layers", "model_dim", "num_heads", "feed_forward_dim")
        found = [
            f"{name}: expected at least 1, found {getattr(self, name)}" for name in names if getattr(self, name) < 1
        ]
        if not found and (self.model_dim % self.num_heads or self.model_dim % 2):
            found.append(f"model_dim: {self.model_dim} is no even multiple of num_heads, {self.num_heads}")
        if not 0.0 <= self.dropout < 1.0:
            found.append(f"dropout: expected a probability below 1, found {self.dropout}")
        return found


class LanguageModelBlock(nn.Module):
    """Causal self-attention and a feed-forward module, each with its LayerNorm before and a residual around it."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(config.model_dim)
        self.qkv = nn.Linear(config.model_dim, 3 * config.model_dim)
        self.output = nn.Linear(config.model_dim, config.model_dim)
        self.feed_forward = FeedForward(config.model_dim, config.feed_forward_dim, config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, U, D), (B, U, U) True where the token of a row may look -> (B, U, D)."""
        query, key, value = self.project(x)
        return self.finish(x, self.attend(query, key, value, visible))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, U, D) -> queries, keys and values, (B, U, D) each."""
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """(B, Q, D), (B, U, D), (B, U, D), (B, Q, U) -> (B, Q, D)."""

        def split(one: Tensor) -> Tensor:
            return one.view(*one.shape[:2], self.num_heads, -1).transpose(1, 2)

        mask = visible[:, None]
        context = F.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=mask)
        return context.transpose(1, 2).flatten(2)

    def finish(self, x: Tensor, context: Tensor) -> Tensor:
        """What the attention has found (B, U, D), and the rest of the block."""
        x = x + self.dropout(self.output(context))
        return x + self.feed_forward(x)  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """Batch (its tokens) -> LossOutput in training; `logits` for all positions."""

    def __init__(self, config: LanguageModelConfig, vocab_size: int, blank_id: int) -> None:
        super().__init__()
        self.config, self.vocab_size, self.blank_id = config, vocab_size, blank_id
        self.embedding = nn.Embedding(vocab_size, config.model_dim)
        nn.init.normal_(self.embedding.weight, std=config.model_dim**-0.5)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(LanguageModelBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.model_dim)
        self.output = nn.Linear(config.model_dim, vocab_size + 1)  # the last one is the end

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens and their places in their sentences (...) -> (..., D)."""
        dim = self.config.model_dim
        rates = torch.exp(torch.arange(0, dim, 2, device=tokens.device) * (-math.log(10_000.0) / dim))
        angles = positions[..., None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], -1)
        embedded: Tensor = self.embedding(tokens)
        return self.dropout(embedded * math.sqrt(dim) + waves.to(embedded.dtype))  # type: ignore[no-any-return]

    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens (B, U), blank between sentences -> (B, U + 1, V + 1): of what follows the start and each token."""
        inputs = F.pad(tokens, (1, 0), value=self.blank_id)
        places = torch.arange(inputs.shape[1], device=tokens.device)
        starts = torch.where(inputs == self.blank_id, places, 0).cummax(1).values  # (B, U + 1), of each sentence
        visible = (starts[:, :, None] == starts[:, None, :]) & (places[:, None] >= places)
        x = self.embed(inputs, places - starts)
        for block in self.blocks:
            x = block(x, visible)
        return self.output(self.norm(x))  # type: ignore[no-any-return]

    def forward(self, batch: Batch, seed: int, step: int) -> LossOutput:
        """The cross entropy of all tokens and ends, in nats; `seed` and `step` belong to the models' common form."""
        padding = lengths_to_pad_mask(batch.token_lens + 1, batch.tokens.shape[1] + 1)
        targets = F.pad(batch.tokens, (0, 1), value=self.blank_id)
        targets = targets.masked_fill(targets == self.blank_id, self.vocab_size)
        logits = self.logits(batch.tokens)
        losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").masked_fill(padding, 0.0)
        by_row = losses.sum(1)
        return LossOutput({"lm": LossTerm(by_row.sum(), (~padding).sum(), by_utterance=by_row.detach())})


class LanguageModelSteps:
    """The model a token at a time, for searches: every prefix keeps what its last token gives to later ones.

    States are numbers of prefixes, and are forgotten at the next `start`. A prefix takes (2 L + 1) D numbers. The model
    must be in evaluation mode; not for use by several threads.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    @torch.no_grad()
    def start(self) -> Tensor:
        """The state (1,) before the first token."""
        weight, config = self.model.embedding.weight, self.model.config
        self.size = 0
        self.kept = weight.new_zeros(config.num_layers, 2, _FIRST_SLOTS, config.model_dim)  # keys and values
        self.hidden = weight.new_zeros(_FIRST_SLOTS, config.model_dim)
        self.line = torch.zeros(_FIRST_SLOTS, _FIRST_LENGTH, dtype=torch.long, device=weight.device)  # prefixes before
        self.length = torch.zeros(_FIRST_SLOTS, dtype=torch.long, device=weight.device)
        tokens = torch.full((1,), self.model.blank_id, device=weight.device)
        return self._append(tokens, self.line.new_zeros(1, 0), self.length.new_zeros(1))

    @torch.no_grad()
    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States (N,), next tokens (N,) -> states (N,)."""
        lengths = self.length[states]
        return self._append(tokens, self.line[states, : int(lengths.max()) if len(states) else 0], lengths)

    @torch.no_grad()
    def log_probs(self, states: Tensor) -> Tensor:
        """States (N,) -> (N, V + 1): natural log P of every token and, last, of the end."""
        logits: Tensor = self.model.output(self.model.norm(self.hidden[states]))
        return logits.float().log_softmax(-1)

    def _append(self, tokens: Tensor, before: Tensor, lengths: Tensor) -> Tensor:
        """New prefixes: tokens (N,) after `lengths` (N,) others, whose numbers are `before` (N, U)."""
        new = torch.arange(self.size, self.size + len(tokens), device=tokens.device)
        self.size += len(tokens)
        longest = before.shape[1] + 1
        self._make_room(longest)
        line = F.pad(before, (0, 1)).scatter(1, lengths[:, None], new[:, None])  # (N, U + 1), itself last
        visible = ~lengths_to_pad_mask(lengths + 1, longest)[:, None]
        x = self.model.embed(tokens, lengths)[:, None]
        for kept, block in zip(self.kept, self.model.blocks, strict=True):
            assert isinstance(block, LanguageModelBlock)
            query, key, value = block.project(x)
            kept[0, new], kept[1, new] = key[:, 0], value[:, 0]
            x = block.finish(x, block.attend(query, kept[0][line], kept[1][line], visible))
        self.hidden[new] = x[:, 0]
        self.line[new, :longest] = line
        self.length[new] = lengths + 1
        return new

    def _make_room(self, longest: int) -> None:
        while self.size > len(self.hidden):
            self.kept = torch.cat([self.kept, torch.zeros_like(self.kept)], 2)
            self.hidden, self.line, self.length = (
                torch.cat([one, torch.zeros_like(one)]) for one in (self.hidden, self.line, self.length)
            )
        while longest > self.line.shape[1]:
            self.line = torch.cat([self.line, torch.zeros_like(self.line)], 1)
