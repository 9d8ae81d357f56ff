"""Searches with language models against enumeration and slow loops; models taken away, and weights of nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.search.slow import (
    HistoryLM,
    SlowFusion,
    assert_same,
    best_path,
    encoder_output,
    exact_log_prob,
    make_model,
    slow_alsd,
    slow_beam,
    slow_maes,
)
from w2vbert_asr.errors import ConfigError
from w2vbert_asr.search import Fusion, Hypothesis, SearchConfig, fuse, search
from w2vbert_asr.text.kneser_ney import train
from w2vbert_asr.text.ngram import NGramModel

WIDE = {
    "beam": {"max_symbols_per_frame": 3, "max_length_ratio": 3},
    "alsd": {"max_length_ratio": 3 / 2},
    "maes": {"maes_steps": 3, "maes_gamma": 1e9, "max_length_ratio": 3},
}


def both(vocab_size: int, lm: float, lodr: float, reward: float) -> tuple[Fusion, SlowFusion]:
    parts = [(HistoryLM(vocab_size, 1), lm), (HistoryLM(vocab_size, 2), -lodr)]
    config = SearchConfig(lm_weight=lm, lodr_weight=lodr, length_reward=reward)
    fusion = fuse(config, parts[0][0], parts[1][0])
    assert fusion is not None
    return fusion, SlowFusion(parts, reward)


def test_totals_of_whole_sequences() -> None:
    fusion, slow = both(4, 0.5, 0.3, 0.8)
    sequences = [(1, 2, 3), (), (3,), (2, 2, 2, 1), (3,)]
    found = fusion.totals(sequences, 4, 0, torch.device("cpu"))
    assert found.tolist() == pytest.approx([slow.total(ids) for ids in sequences], abs=1e-5)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("weights", [(0.7, 0.0, 0.0), (0.5, 0.3, 0.8), (1.5, 0.0, -0.5), (0.0, 0.0, 1.5)])
def test_a_wide_search_is_an_enumeration(name: str, weights: tuple[float, float, float]) -> None:
    """Every sequence, with its exact log P over all alignments and what the models add to it; the best one first."""
    model = make_model(3, seed=1)
    encoder_out, lens = encoder_output(2)
    fusion, slow = both(3, *weights)
    config = SearchConfig(name=name, beam_size=130, **WIDE[name])  # type: ignore[arg-type]
    (found,) = search(model, encoder_out, lens, config, fusion)
    every = [ids for length in range(4) for ids in itertools.product((1, 2), repeat=length)]
    values = {ids: exact_log_prob(model, encoder_out, ids) + slow.total(ids) for ids in every}
    short = [one for one in found if len(one.tokens) <= 3]  # no frame can have more than the cap
    assert [one.tokens for one in short] == sorted(every, key=lambda ids: -values[ids])
    for one in short:
        assert one.score == pytest.approx(exact_log_prob(model, encoder_out, one.tokens), abs=1e-5)
        assert one.lm_score == pytest.approx(slow.total(one.tokens), abs=1e-5)
        assert one.times == best_path(model, encoder_out[0], one.tokens)
    (plain,) = search(model, encoder_out, lens, config)
    assert [one.tokens for one in plain] != [one.tokens for one in found]


SLOW: dict[str, Callable[..., list[Hypothesis]]] = {
    "beam": lambda model, frames, size, slow: (
        slow_maes(model, frames, size, 3, 30.0, slow, 0.7) if size > 1 else slow_beam(model, frames, 1, 3, slow, 0.7)
    ),
    "alsd": lambda model, frames, size, slow: slow_alsd(model, frames, size, 0.7, slow),
    "maes": lambda model, frames, size, slow: slow_maes(model, frames, size, 2, 2.3, slow, 0.7),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("weights", [(0.6, 0.0, 0.0), (0.5, 0.3, 0.8)])
def test_a_narrow_search_equals_the_slow_loop(name: str, size: int, weights: tuple[float, float, float]) -> None:
    model = make_model(5, seed=size, blank_bias=0.5)
    encoder_out, lens = encoder_output(12, 20, 1)
    fusion, slow = both(5, *weights)
    caps = {"max_symbols_per_frame": 3, "max_length_ratio": 0.7, "maes_steps": 2}
    config = SearchConfig(name=name, beam_size=size, **caps)  # type: ignore[arg-type]
    found = search(model, encoder_out, lens, config, fusion)
    for own, frames, num_frames in zip(found, encoder_out, lens.tolist(), strict=True):
        assert_same(own, SLOW[name](model, frames[:num_frames], size, slow))


@pytest.mark.parametrize("name", WIDE)
def test_a_weight_of_zero_changes_nothing(name: str) -> None:
    model = make_model(6, seed=2, blank_bias=2.0)
    encoder_out, lens = encoder_output(14, 9)
    config = SearchConfig(name=name, beam_size=4)  # type: ignore[arg-type]
    assert fuse(config, HistoryLM(6, 0), HistoryLM(6, 1)) is None
    plain = search(model, encoder_out, lens, config)
    assert search(model, encoder_out, lens, config, Fusion(parts=((HistoryLM(6, 0), 0.0),))) == plain


@pytest.mark.parametrize("name", WIDE)
def test_an_ngram_model_alone_and_among_others(name: str) -> None:
    model = make_model(6, seed=3, blank_bias=2.0)
    encoder_out, lens = encoder_output(14, 22, 0, 5)
    texts = [[1, 2, 3], [3, 3, 1, 2], [5, 4], [2, 3, 5, 5, 1]]
    lm, lodr = NGramModel(train(texts, 6, 3)), NGramModel(train(texts[:2], 6, 2))
    config = SearchConfig(name=name, beam_size=5, lm_weight=0.8, lodr_weight=0.2, length_reward=0.4)  # type: ignore[arg-type]
    fusion = fuse(config, lm, lodr)
    together = search(model, encoder_out, lens, config, fusion)
    for b, num_frames in enumerate(lens.tolist()):
        alone = search(model, encoder_out[b : b + 1, :num_frames], lens[b : b + 1], config, fusion)[0]
        assert_same(alone, together[b])
    for own in together:
        for one in own:
            states, expected = [lm.start(), lodr.start()], 0.0
            for token in (*one.tokens, 6):
                expected += 0.8 * lm.log_probs(states[0])[0, token].item()
                expected -= 0.2 * lodr.log_probs(states[1])[0, token].item()
                if token < 6:
                    expected += 0.4
                    states = [
                        part.advance(state, torch.tensor([token]))
                        for part, state in zip((lm, lodr), states, strict=True)
                    ]
            assert one.lm_score == pytest.approx(expected, abs=1e-4)
        assert own == sorted(own, key=lambda one: -(one.score + one.lm_score))


def test_a_prefix_met_again_costs_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(5, seed=4, blank_bias=2.0)
    encoder_out, lens = encoder_output(15, 15)
    lm, steps = HistoryLM(5, 0), list[int]()
    branch = model.decoder.branch
    monkeypatch.setattr(
        model.decoder, "branch", lambda tokens, *more: (steps.append(len(tokens)), branch(tokens, *more))[1]
    )
    search(model, encoder_out, lens, SearchConfig(beam_size=4), Fusion(parts=((lm, 0.5),)))
    assert lm.num_steps == sum(steps) == len(lm.prefixes) - 1


def test_length_normalization_ranks_by_the_whole_score() -> None:
    model = make_model(5, seed=5, blank_bias=0.0)
    encoder_out, lens = encoder_output(25)
    config = SearchConfig(beam_size=6, length_normalization=True)
    (found,) = search(model, encoder_out, lens, config, both(5, 0.5, 0.0, 0.3)[0])
    assert found == sorted(found, key=lambda one: -(one.score + one.lm_score) / (len(one.tokens) + 1))


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"search\.lm_weight: 0\.3 without a model; give --lm"):
        fuse(SearchConfig(lm_weight=0.3), None, HistoryLM(3, 0))
    with pytest.raises(ConfigError, match=r"search\.lodr_weight: 0\.2 without a model; give --lodr"):
        fuse(SearchConfig(lodr_weight=0.2), HistoryLM(3, 0))
    wrong = SearchConfig(name="greedy", lm_weight=-1.0, lodr_weight=math.nan, length_reward=math.inf)
    assert [problem.split(":")[0] for problem in wrong.problems()] == [
        "lm_weight",
        "lodr_weight",
        "length_reward",
        *("lm_weight", "lodr_weight", "length_reward"),
    ]
    assert "greedy" in wrong.problems()[-1]
    assert replace(wrong, lm_weight=0.0, lodr_weight=0.0, length_reward=0.0).problems() == []
