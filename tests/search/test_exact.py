"""Exact log probabilities against a wide search, which sums over all alignments by itself."""

from __future__ import annotations

import pytest

import w2vbert_asr.search.exact as exact
from tests.search.slow import encoder_output, make_model, slow_beam
from w2vbert_asr.search import exact_log_probs


@pytest.mark.parametrize("max_cells", [1, 40, 1 << 18])
def test_values_are_those_of_an_exhaustive_search(max_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MAX_CELLS", max_cells)
    model = make_model(3, seed=4)
    encoder_out, lens = encoder_output(3, 1, 2)
    expected = [
        {one.tokens: one.score for one in slow_beam(model, frames[:num_frames], 10**9, 3)}
        for frames, num_frames in zip(encoder_out, lens.tolist(), strict=True)
    ]
    tokens = [(), (1,), (2, 1, 1), (2,), (1, 2)], [], [(2, 2), ()]
    found = exact_log_probs(model, encoder_out, lens, tokens)
    assert [len(own) for own in found] == [5, 0, 2]
    for own, ids, scores in zip(found, tokens, expected, strict=True):
        assert own == pytest.approx([scores[one] for one in ids], abs=1e-10)
