"""Small models, and the searches as slow loops over dictionaries, one utterance, hypothesis and symbol at a time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from w2vbert_asr.losses.transducer import joint_transducer_loss
from w2vbert_asr.models.decoder import DecoderConfig, LSTMDecoder
from w2vbert_asr.models.joiner import Joiner, JoinerConfig
from w2vbert_asr.search import Hypothesis

BLANK = 0
ENCODER_DIM = 6


@dataclass
class Model:
    decoder: LSTMDecoder
    joiner: Joiner
    blank_id: int = BLANK


def make_model(vocab_size: int, seed: int = 0, blank_bias: float = 1.0) -> Model:
    torch.manual_seed(seed)
    decoder = LSTMDecoder(vocab_size, BLANK, DecoderConfig(embedding_dim=4, hidden_dim=5, num_layers=2))
    joiner = Joiner(ENCODER_DIM, 5, vocab_size, JoinerConfig(joiner_dim=8))
    with torch.no_grad():
        for parameter in [*decoder.parameters(), *joiner.parameters()]:
            parameter.mul_(3.0)  # far from uniform
        joiner.output.bias[BLANK] += blank_bias
    return Model(decoder.double().eval(), joiner.double().eval())


def make_counting_model(length: int) -> Model:
    """One token, emitted `length` times as soon as it may be, whatever the encoder says: the decoder's cell counts."""
    decoder = LSTMDecoder(2, BLANK, DecoderConfig(embedding_dim=1, hidden_dim=1, num_layers=1)).double()
    joiner = Joiner(ENCODER_DIM, 1, 2, JoinerConfig(joiner_dim=1)).double()
    step, sharpness = 1.2 / length, 100.0 * length
    with torch.no_grad():
        for parameter in [*decoder.parameters(), *joiner.parameters()]:
            parameter.zero_()
        decoder.lstm.bias_ih_l0.copy_(torch.tensor([40.0, 40.0, math.atanh(step), 40.0]))  # add a step, forget nothing
        joiner.decoder_projection.weight.fill_(1.0)
        between = math.tanh(math.tanh(step * (length + 0.5)))  # the start is a step, too
        joiner.output.weight[BLANK] = sharpness
        joiner.output.bias[BLANK] = -sharpness * between
    return Model(decoder.eval(), joiner.eval())


def encoder_output(*lens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(len(lens), max(lens), ENCODER_DIM, dtype=torch.float64), torch.tensor(lens)


class HistoryLM:
    """A language model of random probabilities that depend on all tokens before; its states are numbers of prefixes."""

    def __init__(self, vocab_size: int, seed: int) -> None:
        self.vocab_size, self.seed = vocab_size, seed
        self.prefixes: list[tuple[int, ...]] = []
        self.num_steps = 0
        self.rows: dict[tuple[int, ...], Tensor] = {}

    def row(self, tokens: tuple[int, ...]) -> Tensor:
        """(V + 1,) natural log P, the end last."""
        if tokens in self.rows:
            return self.rows[tokens]
        seed = self.seed
        for token in tokens:
            seed = (seed * 1000003 + token + 1) % 2**61
        noise = torch.randn(self.vocab_size + 1, generator=torch.Generator().manual_seed(seed)) * 1.5
        self.rows[tokens] = noise.log_softmax(0)
        return self.rows[tokens]

    def start(self) -> Tensor:
        self.prefixes = [()]
        return torch.zeros(1, dtype=torch.long)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        first = len(self.prefixes)
        self.num_steps += len(states)
        pairs = zip(states.tolist(), tokens.tolist(), strict=True)
        self.prefixes += [(*self.prefixes[state], token) for state, token in pairs]
        return torch.arange(first, len(self.prefixes))

    def log_probs(self, states: Tensor) -> Tensor:
        return torch.stack([self.row(self.prefixes[state]) for state in states.tolist()])


@dataclass
class SlowFusion:
    """What language models add, a token at a time."""

    parts: list[tuple[HistoryLM, float]]
    reward: float

    def added(self, tokens: tuple[int, ...], token: int) -> float:
        return sum(weight * lm.row(tokens)[token].item() for lm, weight in self.parts) + self.reward

    def end(self, tokens: tuple[int, ...]) -> float:
        return sum(weight * lm.row(tokens)[-1].item() for lm, weight in self.parts)

    def total(self, tokens: tuple[int, ...]) -> float:
        return sum(self.added(tokens[:u], token) for u, token in enumerate(tokens)) + self.end(tokens)


NO_FUSION = SlowFusion([], 0.0)


class SlowModel:
    """log P(symbol | frame, tokens) of one utterance, a cell at a time, with what language models add."""

    def __init__(self, model: Model, encoder_out: Tensor, fusion: SlowFusion = NO_FUSION) -> None:
        self.model, self.encoder_out, self.fusion = model, encoder_out, fusion
        self.cache: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def __call__(self, frame: int, tokens: tuple[int, ...]) -> list[float]:
        if tokens not in self.cache:
            row = torch.tensor([tokens], dtype=torch.long)
            decoder_out = self.model.decoder(row, torch.tensor([len(tokens)]))[0, -1]
            encoder_proj = self.model.joiner.project_encoder(self.encoder_out)
            logits = self.model.joiner(encoder_proj, self.model.joiner.project_decoder(decoder_out))
            added = [0.0, *(self.fusion.added(tokens, token) for token in range(1, logits.shape[1]))]
            self.cache[tokens] = logits.log_softmax(-1) + torch.tensor(added, dtype=torch.float64)
        log_probs: list[float] = self.cache[tokens][frame].tolist()
        return log_probs


@dataclass
class Entry:
    score: float
    path: float
    times: tuple[int, ...]
    capped: bool = False


def log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


def slow_beam(
    model: Model, encoder_out: Tensor, size: int, cap: int, fusion: SlowFusion = NO_FUSION, ratio: float = 1.0
) -> list[Hypothesis]:
    """The K best of both those that have ended the frame and the others; exhaustive where `size` is never reached."""
    log_probs = SlowModel(model, encoder_out, fusion)
    most = math.ceil(ratio * len(encoder_out))
    pool = {(): Entry(0.0, 0.0, ())}
    for frame in range(len(encoder_out)):
        active, ended = pool, dict[tuple[int, ...], Entry]()
        for num_emitted in range(cap + 1):
            grown: dict[tuple[int, ...], Entry] = {}
            for tokens, entry in active.items():
                row = log_probs(frame, tokens)
                at_cap = num_emitted == cap or len(tokens) == most
                done = Entry(entry.score + row[BLANK], entry.path + row[BLANK], entry.times, entry.capped or at_cap)
                if tokens in ended:
                    best = max(done, ended[tokens], key=lambda one: one.path)
                    done = Entry(log_add(done.score, ended[tokens].score), best.path, best.times, best.capped)
                ended[tokens] = done
                for token in range(1, len(row)) if not at_cap else ():
                    scores = entry.score + row[token], entry.path + row[token]
                    grown[(*tokens, token)] = Entry(*scores, (*entry.times, frame), entry.capped)
            kept = sorted([*ended.items(), *grown.items()], key=lambda item: -item[1].score)[:size]
            ended, active = (
                {tokens: entry for tokens, entry in kept if group.get(tokens) is entry} for group in (ended, grown)
            )
        pool = ended
    return ranked(with_end(pool, fusion), fusion)


def slow_greedy(model: Model, encoder_out: Tensor, cap: int, ratio: float = 1.0) -> Hypothesis:
    log_probs = SlowModel(model, encoder_out)
    most = math.ceil(ratio * len(encoder_out))
    tokens, times, score, capped = (), (), 0.0, False
    for frame in range(len(encoder_out)):
        for num_emitted in range(cap + 1):
            row = log_probs(frame, tokens)
            at_cap = num_emitted == cap or len(tokens) == most
            best = BLANK if at_cap else row.index(max(row))
            capped |= at_cap
            score += row[best]
            if best == BLANK:
                break
            tokens, times = (*tokens, best), (*times, frame)
    return Hypothesis(tokens, score, times, capped)


def assert_same(actual: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [one.tokens for one in actual] == [one.tokens for one in expected]
    assert [one.times for one in actual] == [one.times for one in expected]
    assert [one.capped for one in actual] == [one.capped for one in expected]
    assert [one.score for one in actual] == pytest.approx([one.score for one in expected], abs=1e-9)
    assert [one.lm_score for one in actual] == pytest.approx([one.lm_score for one in expected], abs=1e-5)


def exact_log_prob(model: Model, encoder_out: Tensor, tokens: tuple[int, ...]) -> float:
    """log P(tokens | one utterance's frames (1, T, E)) by the loss, over all alignments."""
    rows, token_lens = torch.tensor([tokens]).long(), torch.tensor([len(tokens)])
    encoder_proj = model.joiner.project_encoder(encoder_out)
    decoder_proj = model.joiner.project_decoder(model.decoder(rows, token_lens))
    output = model.joiner.output
    lens = torch.tensor([encoder_out.shape[1]])
    loss = joint_transducer_loss(encoder_proj, decoder_proj, output.weight, output.bias, rows, lens, token_lens, BLANK)
    return -loss.item()


def slow_alsd(
    model: Model, encoder_out: Tensor, size: int, ratio: float, fusion: SlowFusion = NO_FUSION
) -> list[Hypothesis]:
    """The search as alsd.py defines it; without its early end, which must not change anything."""
    log_probs = SlowModel(model, encoder_out, fusion)
    num_frames, most = len(encoder_out), math.ceil(ratio * len(encoder_out))
    pool, finished = {(): Entry(0.0, 0.0, ())}, dict[tuple[int, ...], Entry]()
    for num_moves in range(num_frames + most):
        reached: dict[tuple[int, ...], list[Entry]] = {}
        for tokens, entry in pool.items():
            frame = num_moves - len(tokens)
            row = log_probs(frame, tokens)
            at_cap = len(tokens) == most
            capped = entry.capped or at_cap
            done = Entry(entry.score + row[BLANK], entry.path + row[BLANK], entry.times, capped)
            reached.setdefault(tokens, []).append(done)
            for token in range(1, len(row)) if not at_cap else ():
                scores = entry.score + row[token], entry.path + row[token]
                longer = Entry(*scores, (*entry.times, frame), entry.capped)
                reached.setdefault((*tokens, token), []).append(longer)
        merged = {tokens: merge(entries) for tokens, entries in reached.items()}
        pool = dict(sorted(merged.items(), key=lambda item: -item[1].score)[:size])
        ended = {tokens: entry for tokens, entry in pool.items() if num_moves + 1 - len(tokens) == num_frames}
        finished = dict(sorted({**finished, **with_end(ended, fusion)}.items(), key=lambda item: -item[1].score)[:size])
        pool = {tokens: entry for tokens, entry in pool.items() if tokens not in ended}
    return ranked(finished, fusion)


def slow_maes(
    model: Model,
    encoder_out: Tensor,
    size: int,
    steps: int,
    gamma: float,
    fusion: SlowFusion = NO_FUSION,
    ratio: float = 1.0,
) -> list[Hypothesis]:
    """The search as maes.py defines it; with a gamma of 30 that of beam.py."""
    log_probs = SlowModel(model, encoder_out, fusion)
    most = math.ceil(ratio * len(encoder_out))
    pool = {(): Entry(0.0, 0.0, ())}
    for frame in range(len(encoder_out)):
        active, ended = pool, dict[tuple[int, ...], Entry]()
        for num_emitted in range(steps + 1):
            grown: dict[tuple[int, ...], Entry] = {}
            for tokens, entry in active.items():
                row = log_probs(frame, tokens)
                at_cap = num_emitted == steps or len(tokens) == most
                done = Entry(entry.score + row[BLANK], entry.path + row[BLANK], entry.times, entry.capped or at_cap)
                if at_cap or row[BLANK] >= max(row) - gamma:
                    ended[tokens] = merge([done, ended[tokens]]) if tokens in ended else done
                for token in range(1, len(row)) if not at_cap else ():
                    if row[token] >= max(row) - gamma:
                        scores = entry.score + row[token], entry.path + row[token]
                        grown[(*tokens, token)] = Entry(*scores, (*entry.times, frame), entry.capped)
            ended = dict(sorted(ended.items(), key=lambda item: -item[1].score)[:size])
            worst = min(entry.score for entry in ended.values()) if len(ended) == size else -math.inf
            better = [item for item in grown.items() if item[1].score > worst]
            active = dict(sorted(better, key=lambda item: -item[1].score)[:size])
        pool = ended
    return ranked(with_end(pool, fusion), fusion)


def merge(entries: list[Entry]) -> Entry:
    best = max(entries, key=lambda one: one.path)
    score = entries[0].score if len(entries) == 1 else log_add(*(one.score for one in entries))
    return Entry(score, best.path, best.times, best.capped)


def with_end(pool: dict[tuple[int, ...], Entry], fusion: SlowFusion) -> dict[tuple[int, ...], Entry]:
    return {tokens: replace(entry, score=entry.score + fusion.end(tokens)) for tokens, entry in pool.items()}


def ranked(pool: dict[tuple[int, ...], Entry], fusion: SlowFusion) -> list[Hypothesis]:
    found = []
    for tokens, entry in sorted(pool.items(), key=lambda item: -item[1].score):
        lm_score = fusion.total(tokens)
        found.append(Hypothesis(tokens, entry.score - lm_score, entry.times, entry.capped, lm_score))
    return found


def best_path(model: Model, encoder_out: Tensor, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """The frames of the most probable alignment, by trying them all."""
    log_probs = SlowModel(model, encoder_out)

    def score(frames: tuple[int, ...]) -> float:
        labels = sum(log_probs(frame, tokens[:u])[tokens[u]] for u, frame in enumerate(frames))
        blanks = sum(
            log_probs(frame, tokens[: sum(one <= frame for one in frames)])[BLANK] for frame in range(len(encoder_out))
        )
        return labels + blanks

    return max(itertools.combinations_with_replacement(range(len(encoder_out)), len(tokens)), key=score)
