"""Searches for the best token sequences of a transducer, chosen by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from w2vbert_asr.search.alsd import alsd
from w2vbert_asr.search.beam import beam
from w2vbert_asr.search.exact import exact_log_probs
from w2vbert_asr.search.fusion import Fusion, fuse
from w2vbert_asr.search.greedy import greedy
from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import LanguageModel, Searchable
from w2vbert_asr.search.maes import maes

__all__ = [
    "Fusion",
    "Hypothesis",
    "LanguageModel",
    "SearchConfig",
    "Searchable",
    "alsd",
    "beam",
    "exact_log_probs",
    "fuse",
    "greedy",
    "maes",
    "search",
]


def _greedy(
    model: Searchable, encoder_out: Tensor, lens: Tensor, config: SearchConfig, fusion: Fusion | None
) -> list[list[Hypothesis]]:
    assert fusion is None, "the configuration says so"
    return [[hypothesis] for hypothesis in greedy(model, encoder_out, lens, config)]


SEARCHES: dict[str, Callable[[Searchable, Tensor, Tensor, SearchConfig, Fusion | None], list[list[Hypothesis]]]] = {
    "greedy": _greedy,
    "beam": beam,
    "alsd": alsd,
    "maes": maes,
}


def search(
    model: Searchable,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    config: SearchConfig,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> the hypotheses of each utterance, at least one, best first.

    fusion: what language models add (see `fuse`; not for greedy search). The model must be in evaluation mode.
    """
    return SEARCHES[config.name](model, encoder_out, encoder_out_lens, config, fusion)
