"""Span masks against a loop over frames, and the shares of FACTS."""

import torch

from w2vbert_asr.counter_random import draw_key, uniform
from w2vbert_asr.modules.spans import SpanMaskConfig, draw_span_mask, replace_masked

CONFIG = SpanMaskConfig()


def slow_mask(length: int, utt_id: str, seed: int, step: int) -> list[bool]:
    key = torch.tensor(draw_key(seed, step, utt_id, "span"))
    draws = [float(uniform(key, torch.tensor(t))) for t in range(length)]
    starts = [t for t in range(length) if draws[t] < CONFIG.start_prob]
    fits = [t for t in range(length) if t <= max(length - CONFIG.span, 0)]
    if len(set(starts) & set(fits)) < CONFIG.min_spans:
        starts += sorted(fits, key=lambda t: draws[t])[: CONFIG.min_spans]
    return [any(start <= t < start + CONFIG.span for start in starts) for t in range(length)]


def test_equals_a_loop_over_frames() -> None:
    for step in range(40):
        lens = torch.tensor([80, 33, 9, 1])
        ids = ("a", "b", "c", "d")
        mask = draw_span_mask(lens, 80, ids, 5, step, CONFIG)
        for row, utt_id in enumerate(ids):
            assert mask[row, : lens[row]].tolist() == slow_mask(int(lens[row]), utt_id, 5, step)
            assert not mask[row, lens[row] :].any()


def test_about_half_of_a_long_utterance_is_masked_and_no_short_one_has_none() -> None:
    ids = tuple(f"u{i}" for i in range(64))
    long = draw_span_mask(torch.full((64,), 800), 800, ids, 0, 0, CONFIG)
    assert abs(float(long.float().mean()) - 0.49) < 0.02
    short = draw_span_mask(torch.full((64,), 30), 30, ids, 0, 0, CONFIG)
    assert int(short.sum(1).min()) >= CONFIG.span


def test_masked_frames_become_normal_vectors_and_others_stay() -> None:
    features = torch.randn(8, 200, 32)
    ids = tuple(f"u{i}" for i in range(8))
    mask = draw_span_mask(torch.full((8,), 200), 200, ids, 0, 0, CONFIG)
    replaced = replace_masked(features, mask.nonzero(as_tuple=True), ids, 0, 0, 0.1)
    assert torch.equal(replaced[~mask], features[~mask])
    noise = replaced[mask]
    assert abs(float(noise.std()) - 0.1) < 0.002 and abs(float(noise.mean())) < 0.002
    assert len(torch.unique(noise[:, 0])) == len(noise)
