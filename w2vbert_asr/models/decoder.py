"""The LSTM decoder (prediction network): the tokens so far -> one vector; its states travel as plain tensors.

Source: Graves 2012, arXiv 1211.3711, section 2.3.
Dimension letters: B batch, U tokens, N hypotheses, L layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vbert_asr.batch import lengths_to_pad_mask
from w2vbert_asr.modules.dropout import Dropout


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of the decoder; `dropout` is a probability, after the embedding and after every LSTM layer."""

    embedding_dim: int = 256
    hidden_dim: int = 640
    num_layers: int = 2
    dropout: float = 0.0

    def problems(self) -> list[str]:
        found = [
            f"{name}: expected at least 1, found {getattr(self, name)}"
            for name in ("embedding_dim", "hidden_dim", "num_layers")
            if getattr(self, name) < 1
        ]
        if not 0.0 <= self.dropout < 1.0:
            found.append(f"dropout: expected a probability below 1, found {self.dropout}")
        return found


@dataclass(frozen=True)
class DecoderState:
    """What the decoder remembers of N token sequences."""

    hidden: Tensor  # (L, N, H)
    cell: Tensor  # (L, N, H)

    def select(self, index: Tensor) -> DecoderState:
        """The states of the sequences `index` (M,), in that order; repetitions are allowed."""
        return DecoderState(self.hidden.index_select(1, index), self.cell.index_select(1, index))

    def put(self, index: Tensor, states: DecoderState) -> None:
        """Overwrite the states of the sequences `index` (M,), all different, in place."""
        self.hidden.index_copy_(1, index, states.hidden.to(self.hidden.dtype))
        self.cell.index_copy_(1, index, states.cell.to(self.cell.dtype))

    @staticmethod
    def concat(states: Sequence[DecoderState]) -> DecoderState:
        """All sequences of several states, one after another."""
        return DecoderState(
            torch.cat([state.hidden for state in states], 1), torch.cat([state.cell for state in states], 1)
        )


class LSTMDecoder(nn.Module):
    """Embedding and LSTM. The blank symbol stands for the start: its embedding is zero and takes no gradient."""

    def __init__(self, vocab_size: int, blank_id: int, config: DecoderConfig) -> None:
        super().__init__()
        self.blank_id = blank_id
        self.output_dim = config.hidden_dim
        self.embedding = nn.Embedding(vocab_size, config.embedding_dim, padding_idx=blank_id)
        self.lstm = nn.LSTM(
            config.embedding_dim,
            config.hidden_dim,
            config.num_layers,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """tokens (B, U), token_lens (B,) -> (B, U + 1, H): row u has seen the start and the first u tokens.

        What stands at padding is not looked at; the rows past token_lens have no meaning.
        """
        pad_mask = lengths_to_pad_mask(token_lens, tokens.shape[1])
        inputs = nn.functional.pad(tokens.masked_fill(pad_mask, self.blank_id), (1, 0), value=self.blank_id)
        outputs, _ = self.lstm(self.dropout(self.embedding(inputs)))
        dropped: Tensor = self.dropout(outputs)
        return dropped

    def initial_state(self, num_sequences: int, device: torch.device | str) -> DecoderState:
        """The state before the start symbol, for `num_sequences` sequences."""
        shape = (self.lstm.num_layers, num_sequences, self.lstm.hidden_size)
        zeros = torch.zeros(shape, device=device, dtype=self.embedding.weight.dtype)
        return DecoderState(zeros, zeros.clone())

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """The next token (N,) of each sequence -> (N, H) and the new state; the first token is blank_id."""
        inputs = self.dropout(self.embedding(tokens[:, None]))
        outputs, (hidden, cell) = self.lstm(inputs, (state.hidden, state.cell))
        return self.dropout(outputs[:, 0]), DecoderState(hidden, cell)

    def recurrent_gates(self, state: DecoderState) -> Tensor:
        """What the states of N sequences add to the gates of any next token: (L, N, 4 H)."""
        layers = range(self.lstm.num_layers)
        weights = [(getattr(self.lstm, f"weight_hh_l{n}"), getattr(self.lstm, f"bias_hh_l{n}")) for n in layers]
        return torch.stack([F.linear(state.hidden[n], *weights[n]) for n in layers])

    def token_gates(self, tokens: Tensor) -> Tensor:
        """What tokens (N,) add to the gates of the lowest layer: (N, 4 H)."""
        return self._input_gates(0, self.dropout(self.embedding(tokens)))

    def branch(self, token_gates: Tensor, gates: Tensor, cell: Tensor) -> tuple[Tensor, DecoderState]:
        """`step` by N tokens from their `token_gates` (N, 4 H), which serve a token wherever it stands, and from the
        `recurrent_gates` (L, N, 4 H) and cells (L, N, H) of the sequences before, which serve all that may follow.
        """
        inputs, outputs = token_gates, token_gates
        hiddens, cells = [], []
        for n in range(self.lstm.num_layers):
            if n:
                inputs = self._input_gates(n, outputs)
            take, keep, candidate, output = (inputs + gates[n]).chunk(4, 1)
            take, keep = take.sigmoid(), keep.sigmoid()
            cells.append(keep * cell[n] + take * candidate.tanh())
            hiddens.append(output.sigmoid() * cells[-1].tanh())
            outputs = self.dropout(hiddens[-1])
        return outputs, DecoderState(torch.stack(hiddens), torch.stack(cells))

    def _input_gates(self, layer: int, inputs: Tensor) -> Tensor:
        return F.linear(inputs, getattr(self.lstm, f"weight_ih_l{layer}"), getattr(self.lstm, f"bias_ih_l{layer}"))
