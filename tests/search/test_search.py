"""Greedy and beam search against slow loops, exhaustive enumeration and the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from w2vbert_asr.losses.transducer import joint_transducer_loss
from w2vbert_asr.models.decoder import DecoderConfig, LSTMDecoder
from w2vbert_asr.models.joiner import Joiner, JoinerConfig
from w2vbert_asr.search import Hypothesis, SearchConfig, beam, greedy, search

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


def encoder_output(*lens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(len(lens), max(lens), ENCODER_DIM, dtype=torch.float64), torch.tensor(lens)


class SlowModel:
    """log P(symbol | frame, tokens) of one utterance, a cell at a time."""

    def __init__(self, model: Model, encoder_out: Tensor) -> None:
        self.model, self.encoder_out = model, encoder_out
        self.cache: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def __call__(self, frame: int, tokens: tuple[int, ...]) -> list[float]:
        if tokens not in self.cache:
            row = torch.tensor([tokens], dtype=torch.long)
            decoder_out = self.model.decoder(row, torch.tensor([len(tokens)]))[0, -1]
            encoder_proj = self.model.joiner.project_encoder(self.encoder_out)
            logits = self.model.joiner(encoder_proj, self.model.joiner.project_decoder(decoder_out))
            self.cache[tokens] = logits.log_softmax(-1)
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


def slow_beam(model: Model, encoder_out: Tensor, size: int, cap: int) -> list[Hypothesis]:
    """The search as beam.py defines it, with a dictionary; exhaustive where `size` is never reached."""
    log_probs = SlowModel(model, encoder_out)
    pool = {(): Entry(0.0, 0.0, ())}
    for frame in range(len(encoder_out)):
        active, ended = pool, dict[tuple[int, ...], Entry]()
        for num_emitted in range(cap + 1):
            grown: dict[tuple[int, ...], Entry] = {}
            for tokens, entry in active.items():
                row = log_probs(frame, tokens)
                at_cap = num_emitted == cap
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
    ranked = sorted(pool.items(), key=lambda item: -item[1].score)
    return [Hypothesis(tokens, entry.score, entry.times, entry.capped) for tokens, entry in ranked]


def slow_greedy(model: Model, encoder_out: Tensor, cap: int) -> Hypothesis:
    log_probs = SlowModel(model, encoder_out)
    tokens, times, score, capped = (), (), 0.0, False
    for frame in range(len(encoder_out)):
        for num_emitted in range(cap + 1):
            row = log_probs(frame, tokens)
            best = BLANK if num_emitted == cap else row.index(max(row))
            capped |= num_emitted == cap
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


@pytest.mark.parametrize(("vocab_size", "cap", "num_frames"), [(2, 3, 4), (3, 2, 3), (4, 2, 2)])
def test_wide_beam_is_exhaustive(vocab_size: int, cap: int, num_frames: int) -> None:
    model = make_model(vocab_size, seed=vocab_size)
    encoder_out, lens = encoder_output(num_frames)
    config = SearchConfig(beam_size=400, max_symbols_per_frame=cap)
    (found,) = beam(model, encoder_out, lens, config)
    assert len(found) == sum((vocab_size - 1) ** length for length in range(cap * num_frames + 1))
    assert_same(found, slow_beam(model, encoder_out[0], 10**9, cap))
    if cap >= 2:
        assert any(one.capped for one in found) and not all(one.capped for one in found)


def test_scores_of_a_wide_beam_are_the_exact_log_probabilities() -> None:
    model = make_model(3, seed=1)
    encoder_out, lens = encoder_output(3)
    (found,) = beam(model, encoder_out, lens, SearchConfig(beam_size=2000, max_symbols_per_frame=4))
    short = [one for one in found if len(one.tokens) <= 4]  # no frame can have emitted more than the cap
    assert len(short) == 31
    for hypothesis in short:
        tokens, token_lens = torch.tensor([hypothesis.tokens]).long(), torch.tensor([len(hypothesis.tokens)])
        encoder_proj = model.joiner.project_encoder(encoder_out)
        decoder_proj = model.joiner.project_decoder(model.decoder(tokens, token_lens))
        output = model.joiner.output
        loss = joint_transducer_loss(
            encoder_proj, decoder_proj, output.weight, output.bias, tokens, lens, token_lens, BLANK
        )
        assert hypothesis.score == pytest.approx(-loss.item(), abs=1e-10)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("blank_bias", [0.0, 2.0])
def test_beam_equals_the_slow_loop(size: int, blank_bias: float) -> None:
    model = make_model(5, seed=size, blank_bias=blank_bias)
    encoder_out, lens = encoder_output(12, 30, 1, 21)
    found = beam(model, encoder_out, lens, SearchConfig(beam_size=size, max_symbols_per_frame=3))
    for own, frames, num_frames in zip(found, encoder_out, lens.tolist(), strict=True):
        assert_same(own, slow_beam(model, frames[:num_frames], size, 3))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_the_slow_loop_and_beam_one(seed: int) -> None:
    model = make_model(6, seed, blank_bias=seed - 1.0)
    encoder_out, lens = encoder_output(40, 7, 1, 25)
    config = SearchConfig(beam_size=1, max_symbols_per_frame=2)
    found = greedy(model, encoder_out, lens, config)
    expected = [slow_greedy(model, frames[:n], 2) for frames, n in zip(encoder_out, lens.tolist(), strict=True)]
    assert_same(found, expected)
    assert_same([own for (own,) in beam(model, encoder_out, lens, config)], expected)
    assert any(one.tokens for one in found)


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_alone_equals_padded_among_longer_ones(name: str) -> None:
    model = make_model(7, seed=3)
    encoder_out, lens = encoder_output(19, 33, 0, 4)
    for b, num_frames in enumerate(lens.tolist()):
        encoder_out[b, num_frames:] = torch.nan
    config = SearchConfig(name=name, beam_size=4)
    together = search(model, encoder_out, lens, config)
    for b, num_frames in enumerate(lens.tolist()):
        assert_same(search(model, encoder_out[b : b + 1, :num_frames], lens[b : b + 1], config)[0], together[b])
    assert together[2] == [Hypothesis((), 0.0, (), False)]


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_a_model_without_blanks_ends_at_the_cap_and_is_flagged(name: str) -> None:
    model = make_model(4, blank_bias=-50.0)
    encoder_out, lens = encoder_output(6, 3)
    config = SearchConfig(name=name, beam_size=3, max_symbols_per_frame=5)
    for hypotheses, num_frames in zip(search(model, encoder_out, lens, config), lens.tolist(), strict=True):
        assert hypotheses[0].capped
        assert hypotheses[0].times == tuple(t for t in range(num_frames) for _ in range(5))
    calm = search(make_model(4, blank_bias=50.0), encoder_out, lens, config)
    assert all(own[0].tokens == () and not own[0].capped for own in calm)


def test_beam_larger_than_the_vocabulary() -> None:
    model = make_model(2)
    encoder_out, lens = encoder_output(5, 2)
    found = beam(model, encoder_out, lens, SearchConfig(beam_size=64, max_symbols_per_frame=3))
    assert [len(own) for own in found] == [16, 7]  # every length from 0 to 3 tokens a frame


def test_length_normalization_changes_the_ranking_only() -> None:
    model = make_model(5, seed=5, blank_bias=0.0)
    encoder_out, lens = encoder_output(25)
    (plain,) = beam(model, encoder_out, lens, SearchConfig(beam_size=6))
    (ranked,) = beam(model, encoder_out, lens, SearchConfig(beam_size=6, length_normalization=True))
    assert plain == sorted(plain, key=lambda one: one.score, reverse=True)
    assert ranked == sorted(plain, key=lambda one: one.score / (len(one.tokens) + 1), reverse=True)
    assert len({len(one.tokens) for one in plain}) > 1


def test_a_wider_beam_finds_better_hypotheses() -> None:
    model = make_model(8, seed=6, blank_bias=0.0)
    encoder_out, lens = encoder_output(*[20] * 16)
    means = []
    for size in (1, 4, 32):
        found = beam(model, encoder_out, lens, SearchConfig(beam_size=size))
        means.append(sum(own[0].score for own in found) / 16)
    assert means[0] < means[1] < means[2]


def test_settings_out_of_range_are_named() -> None:
    problems = SearchConfig(beam_size=0, max_symbols_per_frame=-1).problems()
    assert problems == [
        "beam_size: expected at least 1, found 0",
        "max_symbols_per_frame: expected at least 1, found -1",
    ]
