"""Greedy and beam search against slow loops, exhaustive enumeration and the loss."""

from __future__ import annotations

import math

import pytest
import torch

from tests.search.slow import (
    assert_same,
    best_path,
    encoder_output,
    exact_log_prob,
    make_counting_model,
    make_model,
    slow_alsd,
    slow_beam,
    slow_greedy,
    slow_maes,
)
from w2vbert_asr.search import Hypothesis, SearchConfig, alsd, beam, frame_sync, greedy, maes, search


@pytest.mark.parametrize(("vocab_size", "cap", "num_frames"), [(2, 3, 4), (3, 2, 3), (4, 2, 2)])
def test_wide_beam_is_exhaustive(vocab_size: int, cap: int, num_frames: int) -> None:
    model = make_model(vocab_size, seed=vocab_size)
    encoder_out, lens = encoder_output(num_frames)
    config = SearchConfig(beam_size=400, max_symbols_per_frame=cap, max_length_ratio=cap)
    (found,) = beam(model, encoder_out, lens, config)
    assert len(found) == sum((vocab_size - 1) ** length for length in range(cap * num_frames + 1))
    assert_same(found, slow_beam(model, encoder_out[0], 10**9, cap, ratio=cap))
    if cap >= 2:
        assert any(one.capped for one in found) and not all(one.capped for one in found)


WIDE = {
    "beam": {"max_symbols_per_frame": 4, "max_length_ratio": 4},
    "alsd": {"max_length_ratio": 4 / 3},
    "maes": {"maes_steps": 4, "maes_gamma": 1e9, "max_length_ratio": 4},
}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_wide_search_has_every_sequence_with_its_exact_log_probability_and_best_alignment(
    name: str, seed: int
) -> None:
    model = make_model(3, seed)
    encoder_out, lens = encoder_output(3)
    config = SearchConfig(name=name, beam_size=2000, **WIDE[name])  # type: ignore[arg-type]
    (found,) = search(model, encoder_out, lens, config)
    short = [one for one in found if len(one.tokens) <= 4]  # no frame, and no utterance, can have more than the cap
    assert len({one.tokens for one in short}) == len(short) == 31
    for hypothesis in short:
        assert hypothesis.score == pytest.approx(exact_log_prob(model, encoder_out, hypothesis.tokens), abs=1e-10)
        assert hypothesis.times == best_path(model, encoder_out[0], hypothesis.tokens)
    if name == "alsd":
        assert short == found


@pytest.mark.parametrize("name", WIDE)
def test_no_score_is_above_the_exact_log_probability_and_most_are_near(name: str) -> None:
    """What a narrow search has lost can only be missing."""
    model = make_model(6, seed=11, blank_bias=4.0)
    encoder_out, lens = encoder_output(20)
    (found,) = search(model, encoder_out, lens, SearchConfig(name=name, beam_size=6))  # type: ignore[arg-type]
    missing = [exact_log_prob(model, encoder_out, one.tokens) - one.score for one in found]
    assert min(missing) > -1e-9 and missing[0] < 0.5


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(("blank_bias", "ratio"), [(0.0, 2.0), (2.0, 0.7), (2.0, 0.1)])
def test_alsd_equals_the_slow_loop(size: int, blank_bias: float, ratio: float) -> None:
    model = make_model(5, seed=size, blank_bias=blank_bias)
    encoder_out, lens = encoder_output(12, 30, 1, 21)
    found = alsd(model, encoder_out, lens, SearchConfig(beam_size=size, max_length_ratio=ratio))
    for own, frames, num_frames in zip(found, encoder_out, lens.tolist(), strict=True):
        assert_same(own, slow_alsd(model, frames[:num_frames], size, ratio))
    if ratio == 0.1:
        assert any(one.capped for own in found for one in own)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(("blank_bias", "steps", "gamma"), [(0.0, 2, 2.3), (2.0, 1, 5.0), (0.0, 3, 1e9)])
@pytest.mark.parametrize("ratio", [3.0, 0.3])
def test_maes_equals_the_slow_loop(size: int, blank_bias: float, steps: int, gamma: float, ratio: float) -> None:
    model = make_model(5, seed=size, blank_bias=blank_bias)
    encoder_out, lens = encoder_output(12, 30, 1, 21)
    config = SearchConfig(beam_size=size, maes_steps=steps, maes_gamma=gamma, max_length_ratio=ratio)
    found = maes(model, encoder_out, lens, config)
    for own, frames, num_frames in zip(found, encoder_out, lens.tolist(), strict=True):
        assert_same(own, slow_maes(model, frames[:num_frames], size, steps, gamma, ratio=ratio))


def test_a_small_gamma_prunes() -> None:
    model = make_model(5, seed=1, blank_bias=0.0)
    encoder_out, lens = encoder_output(25)
    (wide,), (narrow,) = (maes(model, encoder_out, lens, SearchConfig(maes_gamma=gamma)) for gamma in (1e9, 0.1))
    assert [one.tokens for one in wide] != [one.tokens for one in narrow]
    assert wide[0].score > narrow[0].score


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(("blank_bias", "ratio"), [(0.0, 3.0), (2.0, 3.0), (0.0, 0.3)])
def test_beam_equals_the_slow_loop(size: int, blank_bias: float, ratio: float) -> None:
    model = make_model(5, seed=size, blank_bias=blank_bias)
    encoder_out, lens = encoder_output(12, 30, 1, 21)
    config = SearchConfig(beam_size=size, max_symbols_per_frame=3, max_length_ratio=ratio)
    found = beam(model, encoder_out, lens, config)
    for own, frames, num_frames in zip(found, encoder_out, lens.tolist(), strict=True):
        slow = slow_maes(model, frames[:num_frames], size, 3, 30.0, ratio=ratio)
        assert_same(own, slow if size > 1 else slow_beam(model, frames[:num_frames], 1, 3, ratio=ratio))
    if ratio == 0.3:
        assert any(one.capped for own in found for one in own)


@pytest.mark.parametrize(("name", "size"), [("beam", 1), ("beam", 2), ("beam", 4), ("maes", 3)])
def test_frames_looked_at_together_change_nothing(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(5, seed=size, blank_bias=4.0)
    encoder_out, lens = encoder_output(90, 25, 1, 70)
    config = SearchConfig(name=name, beam_size=size)  # type: ignore[arg-type]
    calls, joiner = list[int](), model.joiner.forward
    monkeypatch.setattr(model.joiner, "forward", lambda *both: (calls.append(len(both[0])), joiner(*both))[1])
    together = search(model, encoder_out, lens, config)
    num_together = len(calls)
    monkeypatch.setattr(frame_sync, "MAX_WIDTH", 1)
    for own, expected in zip(together, search(model, encoder_out, lens, config), strict=True):
        assert_same(own, expected)
    assert num_together < 0.7 * (len(calls) - num_together)
    assert any(own[0].tokens for own in together)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [2.0, 0.1])
def test_i04_greedy_equals_the_slow_loop_and_beam_one(seed: int, ratio: float) -> None:
    model = make_model(6, seed, blank_bias=seed - 1.0)
    encoder_out, lens = encoder_output(40, 7, 1, 25)
    config = SearchConfig(beam_size=1, max_symbols_per_frame=2, max_length_ratio=ratio)
    found = greedy(model, encoder_out, lens, config)
    expected = [slow_greedy(model, frames[:n], 2, ratio) for frames, n in zip(encoder_out, lens.tolist(), strict=True)]
    assert_same(found, expected)
    assert_same([own for (own,) in beam(model, encoder_out, lens, config)], expected)
    assert any(one.tokens for one in found)
    assert ratio > 1 or any(one.capped for one in found)


@pytest.mark.parametrize("seed", range(4))
def test_i04_alsd_with_one_hypothesis_is_greedy_search_up_to_its_cap(seed: int) -> None:
    model = make_model(6, seed, blank_bias=seed + 1.0)
    encoder_out, lens = encoder_output(20, 7, 1, 12)
    found = alsd(model, encoder_out, lens, SearchConfig(beam_size=1, max_length_ratio=2.0))
    expected = greedy(model, encoder_out, lens, SearchConfig(max_symbols_per_frame=40, max_length_ratio=40.0))
    for (own,), same, num_frames in zip(found, expected, lens.tolist(), strict=True):
        most = 2 * num_frames
        assert own.tokens == same.tokens[:most] and own.times == same.times[:most]
        assert own.capped == (len(same.tokens) >= most)
        assert own.capped or own.score == pytest.approx(same.score, abs=1e-9)
    assert any(one.tokens for one in expected)


@pytest.mark.parametrize("name", ["greedy", "beam", "alsd", "maes"])
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


@pytest.mark.parametrize("name", ["greedy", "beam", "alsd", "maes"])
def test_i05_a_model_without_blanks_ends_at_the_cap_and_is_flagged(name: str) -> None:
    model = make_model(4, blank_bias=-50.0)
    encoder_out, lens = encoder_output(6, 3)
    config = SearchConfig(name=name, beam_size=3, max_symbols_per_frame=5, maes_steps=5, max_length_ratio=5.0)
    for hypotheses, num_frames in zip(search(model, encoder_out, lens, config), lens.tolist(), strict=True):
        assert hypotheses[0].capped
        if name == "alsd":  # its cap is on the utterance
            assert len(hypotheses[0].times) == 5 * num_frames
        else:
            assert hypotheses[0].times == tuple(t for t in range(num_frames) for _ in range(5))
    calm = search(make_model(4, blank_bias=50.0), encoder_out, lens, config)
    assert all(own[0].tokens == () and not own[0].capped for own in calm)


@pytest.mark.parametrize("name", ["greedy", "beam", "alsd", "maes"])
def test_a_frame_may_emit_a_whole_sentence(name: str) -> None:
    """As models do whose encoder sees the whole utterance; with a cap of 10 this sequence would have a log P of -20."""
    model = make_counting_model(length=30)
    encoder_out, lens = encoder_output(40, 32)
    for best, *_ in search(model, encoder_out, lens, SearchConfig(name=name)):  # type: ignore[arg-type]
        assert (best.tokens, set(best.times), best.capped) == ((1,) * 30, {0}, False)
        assert best.score > -0.01
    capped = search(model, encoder_out, lens, SearchConfig(max_symbols_per_frame=10))
    assert all(own[0].score < -5.0 for own in capped)


@pytest.mark.parametrize("name", WIDE)
def test_i04_beam_larger_than_the_vocabulary(name: str) -> None:
    model = make_model(2)
    encoder_out, lens = encoder_output(5, 2)
    caps = {"max_symbols_per_frame": 3, "maes_steps": 3, "maes_gamma": 1e9, "max_length_ratio": 3.0}
    found = search(model, encoder_out, lens, SearchConfig(name=name, beam_size=64, **caps))  # type: ignore[arg-type]
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
    config = SearchConfig(
        beam_size=0, max_symbols_per_frame=-1, maes_steps=0, max_length_ratio=0.0, maes_gamma=math.nan
    )
    assert config.problems() == [
        "beam_size: expected at least 1, found 0",
        "max_symbols_per_frame: expected at least 1, found -1",
        "maes_steps: expected at least 1, found 0",
        "max_length_ratio: expected a number above 0, found 0.0",
        "maes_gamma: expected a number above 0, found nan",
    ]
    assert SearchConfig().problems() == []
