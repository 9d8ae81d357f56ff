"""What decoder and language models make of a token prefix, kept, so that a prefix met again costs no step of theirs.

A beam meets the same few continuations of a prefix at frame after frame, and drops most prefixes before they grow. So
what a prefix gives to its continuations is made when it first grows, once for all of them. Every utterance has a
number of slots; a new prefix takes the one that was in use longest ago.

Dimension letters: B batch, C slots an utterance, N new prefixes, J joiner, L layers, H hidden, V vocabulary, M language
models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2vbert_asr.models.decoder import DecoderState
from w2vbert_asr.search.fusion import Fusion
from w2vbert_asr.search.interface import Searchable

ROOT_KEY = 1
_MULTIPLIER = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed number


def extend_key(keys: Tensor, tokens: Tensor) -> Tensor:
    """Keys (N,) of prefixes, next tokens (N,) -> keys of the longer prefixes.

    A prefix is known by 64 bits, mixed at every token (multiply, shift, exclusive or): two different prefixes among n
    have the same key with a probability of about n**2 / 2**65.
    """
    keys = (keys + tokens + 1) * _MULTIPLIER
    return keys ^ (keys >> 29)


class PrefixStates:
    """The decoder's memory of a batch: `slots` (flat, utterance times C) stand for prefixes."""

    def __init__(
        self,
        model: Searchable,
        batch: int,
        slots_per_utterance: int,
        device: torch.device,
        num_frames: int,
        fusion: Fusion | None = None,
    ) -> None:
        """All utterances start with the empty prefix in their first slot (`root_slots`). num_frames: T, padded."""
        self.model = model
        self.keys = torch.zeros(batch, slots_per_utterance, dtype=torch.long, device=device)
        self.last_use = torch.zeros_like(self.keys)
        self.clock = 0
        self.root_slots = torch.arange(batch, device=device) * slots_per_utterance
        self.keys[:, 0] = ROOT_KEY

        starts = torch.full((batch,), model.blank_id, dtype=torch.long, device=device)
        decoder_out, state = model.decoder.step(starts, model.decoder.initial_state(batch, device))
        vectors = model.joiner.project_decoder(decoder_out)
        everywhere = torch.arange(batch, device=device).repeat_interleave(slots_per_utterance)
        self.vectors = vectors.index_select(0, everywhere)  # (B * C, J)
        self.state: DecoderState = state.select(everywhere)  # (L, B * C, H)
        self.gates = torch.zeros(*self.state.hidden.shape[:2], 4 * self.state.hidden.shape[2], device=device)
        self.gates = self.gates.to(self.state.hidden.dtype)  # (L, B * C, 4 H), of the prefixes that were extended
        self.has_gates = torch.zeros(len(everywhere), dtype=torch.bool, device=device)

        vocab_size = model.decoder.embedding.num_embeddings
        all_tokens = torch.arange(vocab_size, device=device)
        self.token_table = model.decoder.token_gates(all_tokens) if batch * num_frames > vocab_size else None

        self.fusion = fusion
        if fusion is not None:
            states = fusion.start(device)
            scores = fusion.scores(states, vocab_size, model.blank_id)
            self.lm_states = states.repeat(1, len(everywhere))  # (M, B * C)
            self.lm_scores = scores.repeat(len(everywhere), 1)  # (B * C, V + 1), of what may come next
            self.lm_sum = torch.zeros(len(everywhere), dtype=torch.float64, device=device)  # (B * C,), of the tokens

    def extend(self, slots_in_use: Tensor, utterance: Tensor, slots: Tensor, tokens: Tensor, keys: Tensor) -> Tensor:
        """Slots (N,) of new prefixes: those in `slots` (N,), each longer by one of `tokens` (N,), with `keys` (N,).

        utterance (N,) must not decrease, and the new prefixes of one utterance must differ. No slot of `slots_in_use`
        is given away, nor one that an earlier call of the same kind returned and `slots_in_use` still lists.
        """
        self.clock += 1
        self.last_use.view(-1)[slots_in_use.flatten()] = self.clock
        same = self.keys[utterance] == keys[:, None]
        known, place = same.max(1)
        own_slots = utterance * self.keys.shape[1] + place
        self.last_use.view(-1)[own_slots[known]] = self.clock

        new = (~known).nonzero()[:, 0]
        if len(new) > 0:
            own_slots[new] = fresh = self._oldest(utterance[new])
            parents = slots[new]
            self._prepare(parents)
            gates, cells = self.gates.index_select(1, parents), self.state.cell.index_select(1, parents)
            decoder_out, state = self.model.decoder.branch(self._token_gates(tokens[new]), gates, cells)
            self.has_gates[fresh] = False
            self.vectors.index_copy_(0, fresh, self.model.joiner.project_decoder(decoder_out))
            self.state.put(fresh, state)
            self.keys.view(-1)[fresh] = keys[new]
            self.last_use.view(-1)[fresh] = self.clock
            if self.fusion is not None:
                states = self.fusion.advance(self.lm_states[:, parents], tokens[new])
                self.lm_sum[fresh] = self.lm_sum[parents] + self.lm_scores[parents, tokens[new]].double()
                self.lm_states[:, fresh] = states
                self.lm_scores[fresh] = self.fusion.scores(states, self.lm_scores.shape[1] - 1, self.model.blank_id)
        return own_slots

    def with_lm(self, log_probs: Tensor, slots: Tensor) -> Tensor:
        """log_probs (R, V) of what may follow the prefixes in `slots` (R,), with what language models add, in place."""
        if self.fusion is None:
            return log_probs
        return log_probs.add_(self.lm_scores.index_select(0, slots)[:, :-1])

    def ends(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots (B, P) -> what the end adds to their scores, and what language models have then added in all."""
        if self.fusion is None:
            nothing = torch.zeros(slots.shape, dtype=torch.float64, device=slots.device)
            return nothing, nothing
        end = self.lm_scores[:, -1][slots].double()
        return end, self.lm_sum[slots] + end

    def _token_gates(self, tokens: Tensor) -> Tensor:
        """(N, 4 H): looked up, where a search is expected to ask for more than the vocabulary has."""
        if self.token_table is None:
            return self.model.decoder.token_gates(tokens)
        return self.token_table.index_select(0, tokens)

    def _prepare(self, parents: Tensor) -> None:
        """Make the gates of those slots (N,) that have none yet."""
        lacking = torch.unique(parents[~self.has_gates[parents]])
        if len(lacking) > 0:
            self.gates.index_copy_(1, lacking, self.model.decoder.recurrent_gates(self.state.select(lacking)))
            self.has_gates[lacking] = True

    def _oldest(self, utterance: Tensor) -> Tensor:
        """A slot for each of (N,) utterances in order, all different, the longest unused first."""
        counts = torch.bincount(utterance, minlength=len(self.keys))
        rank = torch.arange(len(utterance), device=utterance.device) - (counts.cumsum(0) - counts)[utterance]
        by_age = self.last_use.argsort(dim=1, stable=True)
        oldest: Tensor = by_age[utterance, rank]
        return utterance * self.keys.shape[1] + oldest
